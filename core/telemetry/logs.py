"""Logging: one line per event, whatever the messages contain."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

#: What could forge a line or command a terminal: control characters, line separators, and the
#: marks that make a terminal show a line's characters in another order.
_CONTROLS = {
    code: ascii(chr(code))[1:-1]
    for code in (
        *(*range(0x20), *range(0x7F, 0xA0)),
        *(0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
    )
}


def printable(text: str) -> str:
    """A text from a message on one line, its control characters escaped."""
    return text.translate(_CONTROLS)


def log_extra(*request_ids: str) -> Mapping[str, Any]:
    """The `extra` of a log line about jobs: as JSON it names them in a field of their own."""
    return {"request_ids": request_ids}


class OneLineFormatter(logging.Formatter):
    """Escapes control characters; the lines of a traceback are marked, so that none looks new."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        trace = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join("  | " + printable(line) for line in trace.splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object per line, in ASCII: what a message contains cannot end it or the line.

    `time` is ISO 8601 in UTC; `request_id` is there when the line is about one job, `request_ids`
    when it is about several; `exception` is a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_ids = list(getattr(record, "request_ids", ()))
        if len(request_ids) == 1:
            line["request_id"] = request_ids[0]
        elif request_ids:
            line["request_ids"] = request_ids
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(level: str, form: str = "text") -> None:
    """Send the log to standard error, from `level` on, as lines of `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else OneLineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
