"""Logging: one line per event; control characters in messages are escaped."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from core.telemetry.output import unblock_standard_error
from core.telemetry.record import watch

log = logging.getLogger(__name__)

#: Characters that could forge a line or control a terminal: control characters, line separators,
#: and marks that change the direction of text.
_CONTROLS = {
    code: ascii(chr(code))[1:-1]
    for code in (
        *(*range(0x20), *range(0x7F, 0xA0)),
        *(0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
    )
}


def printable(text: str) -> str:
    """A text on one line, with its control characters escaped."""
    return text.translate(_CONTROLS)


def log_extra(*request_ids: str) -> Mapping[str, Any]:
    """The `extra` of a log line about jobs: JSON lines get their ids as a separate field."""
    return {"request_ids": request_ids}


class OneLineFormatter(logging.Formatter):
    """Escapes control characters, and marks the lines of a traceback as continuation lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        trace = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join("  | " + printable(line) for line in trace.splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object per line, in ASCII, so that no message can break the line.

    `time` is ISO 8601 in UTC. `request_id` is set if the line is about one job, `request_ids` if it
    is about several. `exception` is a traceback.
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


def number_of(count: int, noun: str) -> str:
    """A number with its noun: `1 job`, `2 jobs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def configure_logging(level: str, form: str = "text") -> None:
    """Send the log, from `level` on, to standard error, as `text` or `json`.

    Lines that nobody reads are dropped: see output.py.
    """
    formatter = JsonFormatter() if form == "json" else OneLineFormatter()

    def notice(count: int, outage_s: float, error: str) -> str:
        why = f"could not be written ({error})" if error else "was not read"
        text = "standard error %s for %.0f s: dropped %s"
        values = (why, outage_s, number_of(count, "line"))
        record = log.makeRecord(log.name, logging.WARNING, __file__, 0, text, values, None)
        return formatter.format(record) + "\n"

    if output := unblock_standard_error(notice):
        watch.dropped_log_lines = lambda: output.dropped
    handler = logging.StreamHandler(sys.stderr) if sys.stderr else logging.NullHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def tell_dropped_lines() -> None:
    """Say how many lines were dropped, if standard error can be written again."""
    if sys.stderr:
        sys.stderr.flush()
