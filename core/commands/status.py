"""`status`: queues, workers, rates."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from core.commands.common import (
    RedisUnavailable,
    add_command,
    ago,
    connected,
    print_json,
    table,
)
from core.config import load_settings
from core.recovery.overview import Overview, read_overview
from core.telemetry.logs import printable

CLEAR = "\x1b[H\x1b[2J"


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "status",
        "show queues, workers and rates",
        "status\nstatus --watch\nstatus --watch 10 --json",
        command,
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=2.0,
        metavar="SECONDS",
        help="refresh every SECONDS (2) until Ctrl-C, also after an outage of Redis",
    )


def command(options: argparse.Namespace) -> int:
    """Show the overview once, or repeatedly with --watch."""
    settings = load_settings()

    def read() -> Overview:
        with connected(settings.redis_url) as client:
            return read_overview(client, settings.queues, settings.result_queue)

    if options.watch is None:
        _show(options, read())
        return 0
    with contextlib.suppress(KeyboardInterrupt):  # the normal end, at any moment
        _watch(options, read)
    return 0


def _watch(options: argparse.Namespace, read: Callable[[], Overview]) -> None:
    before: Overview | None = None
    away = False
    while True:
        try:
            overview = read()
        except RedisUnavailable as error:  # temporary; an outage is reported once
            if not away:
                _print(options, {"error": str(error)}, f"{printable(str(error))}; trying again")
            away = True
        else:
            _show(options, overview, before)
            before, away = overview, False
        time.sleep(max(0.1, options.watch))


def _show(options: argparse.Namespace, overview: Overview, before: Overview | None = None) -> None:
    _print(options, overview.to_dict(), rendered(overview, before))


def _print(options: argparse.Namespace, content: Any, text: str) -> None:
    if options.json:
        print_json(content)
    else:
        print((CLEAR if options.watch and sys.stdout.isatty() else "") + text)
    sys.stdout.flush()


def rendered(overview: Overview, before: Overview | None = None) -> str:
    """The overview as text, with how the queues have changed since an earlier one."""
    rows: list[tuple[object, ...]] = []
    for kind, length in overview.backlog.items():
        change = "" if before is None else f"{length - before.backlog[kind]:+d}"
        rows.append((f"waiting, {kind}", length, change, overview.queues[kind]))
    hint = "see: python worker.py dead list" if overview.dead else ""
    rows += [
        ("wait for another attempt", sum(overview.delayed.values()), "", ""),
        ("in flight", overview.processing, "", ""),
        ("dead", overview.dead, "", hint),
        ("done per minute", f"{overview.per_minute:g}", "", ""),
    ]
    rows += [
        (
            "orphaned",
            orphan.jobs,
            f"since {ago(orphan.seen, overview.at)}",
            f"of dead workers on {orphan.host}; ORPHAN_AFTER_S says when they are given back",
        )
        for orphan in overview.orphans
    ]
    workers = [
        (
            worker.worker if worker.here else f"{worker.worker} (other queues)",
            ago(worker.started, overview.at),
            worker.model,
            f"{worker.per_minute:g}",
            worker.done,
            worker.dead,
            worker.processing,
            worker.admin_port or "none",
        )
        for worker in overview.workers
    ]
    head = ("worker", "up", "model", "per minute", "done", "dead", "in flight", "admin port")
    # table() prints a header; the queues are shown without one.
    queues = "\n".join(table(("", "", "", ""), rows).splitlines()[1:])
    listed = table(head, workers) if workers else "no worker is alive on this Redis"
    return f"{queues}\n\n{listed}"
