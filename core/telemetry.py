"""Logging: one line per event, whatever the messages contain."""

from __future__ import annotations

import logging
import sys

#: What could forge a line or command a terminal: control characters, line separators, and the
#: marks that make a terminal show a line's characters in another order.
_CONTROLS = {
    code: ascii(chr(code))[1:-1]
    for code in (
        *(*range(0x20), *range(0x7F, 0xA0)),
        *(0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
    )
}


class OneLineFormatter(logging.Formatter):
    """Escapes control characters; the lines of a traceback are marked, so that none looks new."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(_CONTROLS)

    def formatException(self, ei: object) -> str:
        trace = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join("  | " + line.translate(_CONTROLS) for line in trace.splitlines())


def configure_logging(level: str) -> None:
    """Send the log to standard error, from `level` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
