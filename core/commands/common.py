"""Shared by the commands: options, tables, a connection to Redis."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import redis

from core.broker.connection import sync_client
from core.broker.redis_errors import cannot_be_used
from core.errors import WorkerError
from core.telemetry.logs import printable

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class RedisUnavailable(WorkerError):
    """A command cannot reach Redis."""


def add_command(
    commands: Any, name: str, summary: str, examples: str, command: Callable[..., int]
) -> argparse.ArgumentParser:
    """Add a command with `--json` and with `examples`, one per line, at the end of its help."""
    lines = "\n".join(f"  python worker.py {line.strip()}" for line in examples.strip().split("\n"))
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(command=command)
    return parser


@contextlib.contextmanager
def connected(redis_url: str) -> Iterator[redis.Redis]:
    """A client; an error of Redis ends the command with one line."""
    try:
        with sync_client(redis_url) as client:
            yield client
    except redis.RedisError as error:  # no OSError: redis-py wraps its own; others are not of Redis
        raise RedisUnavailable(cannot_be_used(redis_url, error)) from error


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Handle SIGTERM and a closed terminal like Ctrl-C, so that the command cleans up."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_json(content: Any) -> None:
    """Print an object as JSON, in ASCII."""
    print(json.dumps(content))


def print_json_list(items: Iterable[Any]) -> None:
    """Print a list as JSON, in ASCII, item by item, because it may be long."""
    separator = "["
    for item in items:
        print(separator, json.dumps(item), sep="", end="")
        separator = ", "
    print("[]" if separator == "[" else "]")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns, one line per row; control characters are escaped."""
    cells = [[printable(str(cell)) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def duration(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h` or `7d`; for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} must be a duration such as 90s, 10m, 2h or 7d")
    return float(match[1]) * UNITS[match[2] or "s"]


def ago(at: float, now: float | None = None) -> str:
    """How long ago a moment (unix seconds) was: `12s`, `5m`, `3h`, `2d`."""
    seconds = max(0.0, (time.time() if now is None else now) - at)
    for unit, size in reversed(UNITS.items()):
        if seconds >= size or unit == "s":
            return f"{seconds / size:.0f}{unit}"
    raise AssertionError("there are seconds")


def shortened(text: str, most: int) -> str:
    """A text cut to a length."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
