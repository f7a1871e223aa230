"""What the worker tells about itself: its log, and the record of what it has done."""

from core.telemetry.logs import configure_logging, log_extra
from core.telemetry.record import Watch, watch
from core.telemetry.spans import tracing

__all__ = ["Watch", "configure_logging", "log_extra", "tracing", "watch"]
