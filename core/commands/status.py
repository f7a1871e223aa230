"""`status`: queues, workers, rates."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import Any

from core.commands.common import add_command, ago, connected, print_json, table
from core.config import load_settings
from core.overview import Overview, read_overview

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
        help="show it again every SECONDS (2) until Ctrl-C",
    )


def command(options: argparse.Namespace) -> int:
    """Show it once, or again and again."""
    settings = load_settings()
    with connected(settings) as client:
        if options.watch is None:
            _show(options, read_overview(client, settings))
            return 0
        before: Overview | None = None
        with contextlib.suppress(KeyboardInterrupt):  # its proper end, at whatever moment
            while True:
                overview = read_overview(client, settings)
                _show(options, overview, before)
                before = overview
                time.sleep(max(0.1, options.watch))
    return 0


def _show(options: argparse.Namespace, overview: Overview, before: Overview | None = None) -> None:
    if options.json:
        print_json(overview.to_dict())
    else:
        clear = CLEAR if options.watch and sys.stdout.isatty() else ""
        print(clear + rendered(overview, before))
    sys.stdout.flush()


def rendered(overview: Overview, before: Overview | None = None) -> str:
    """The overview as text, with how the queues have changed since an earlier one."""
    rows: list[tuple[object, ...]] = []
    for kind, length in overview.backlog.items():
        change = "" if before is None else f"{length - before.backlog[kind]:+d}"
        rows.append((f"waiting, {kind}", length, change, overview.queues[kind]))
    hint = "see: python worker.py dead list" if overview.dead else ""
    rows += [
        ("in hand", overview.processing, "", ""),
        ("dead", overview.dead, "", hint),
        ("done per minute", f"{overview.per_minute:g}", "", ""),
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
