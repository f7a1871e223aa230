"""Telemetry: logs, traces, and the in-memory record that metrics and the status page read."""

from core.telemetry.logs import configure_logging, log_extra
from core.telemetry.record import Watch, watch
from core.telemetry.spans import tracing

__all__ = ["Watch", "configure_logging", "log_extra", "tracing", "watch"]
