"""What the worker tells about itself: its log, and the record of what it has done."""

from core.telemetry.logs import about, configure_logging
from core.telemetry.tracing import tracing
from core.telemetry.watch import Watch, watch

__all__ = ["Watch", "about", "configure_logging", "tracing", "watch"]
