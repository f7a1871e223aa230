"""What the worker tells about itself: its log, and the record of what it has done."""

from core.telemetry.logs import about, configure_logging
from core.telemetry.record import Watch, watch
from core.telemetry.spans import tracing

__all__ = ["Watch", "about", "configure_logging", "tracing", "watch"]
