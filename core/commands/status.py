"""`status`: queues, workers, rates."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import Any

from core.commands.common import (
    RedisUnavailable,
    add_command,
    ago,
    connected,
    print_json,
    table,
)
from core.config import Settings, load_settings
from core.recovery.overview import Overview, read_overview
from core.telemetry.logs import printable

CLEAR = "\x1b[H\x1b[2J"


def add(commands: Any) -> None:
    """Describe the command."""
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
        help="show it again every SECONDS (2) until Ctrl-C, also when Redis has been away",
    )


def command(options: argparse.Namespace) -> int:
    """Show it once, or again and again."""
    settings = load_settings()
    if options.watch is None:
        with connected(settings) as client:
            _show(options, read_overview(client, settings))
        return 0
    with contextlib.suppress(KeyboardInterrupt):  # its proper end, at whatever moment
        _watch(options, settings)
    return 0


def _watch(options: argparse.Namespace, settings: Settings) -> None:
    before: Overview | None = None
    away = False
    while True:
        try:
            with connected(settings) as client:
                overview = read_overview(client, settings)
        except RedisUnavailable as error:  # it may come back; one line is enough for an outage
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
        ("wait for another try", sum(overview.delayed.values()), "", ""),
        ("in hand", overview.processing, "", ""),
        ("dead", overview.dead, "", hint),
        ("done per minute", f"{overview.per_minute:g}", "", ""),
    ]
    rows += [
        (
            "orphaned",
            one.jobs,
            f"since {ago(one.seen, overview.at)}",
            f"of dead workers on {one.host}; ORPHAN_AFTER_S says when they are given back",
        )
        for one in overview.orphans
    ]
    workers = [
        (
            one.worker if one.here else f"{one.worker} (other queues)",
            ago(one.started, overview.at),
            one.model,
            f"{one.per_minute:g}",
            one.done,
            one.dead,
            one.processing,
            one.admin_port or "none",
        )
        for one in overview.workers
    ]
    head = ("worker", "up", "model", "per minute", "done", "dead", "in hand", "admin port")
    # A table needs a head; this one is read without.
    queues = "\n".join(table(("", "", "", ""), rows).splitlines()[1:])
    found = table(head, workers) if workers else "no worker is alive on this Redis"
    return f"{queues}\n\n{found}"
