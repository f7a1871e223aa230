"""`demo`: erase text from the sample pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from core.errors import WorkerError


class DemoMissing(WorkerError):
    """The demo's own dependencies are not installed."""


def add(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "demo",
        help="erase text from the sample pictures, see out/",
        description="Erases text from the sample pictures, with a worker and a Redis of its own "
        "(or the one in REDIS_URL).",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out"),
        help="folder for pictures, contact sheet and figures (%(default)s)",
    )
    parser.set_defaults(command=command)


def command(options: argparse.Namespace) -> int:
    """Run the demo; the exit status."""
    try:
        from demo.main import run_demo
    except ModuleNotFoundError as error:
        raise DemoMissing(
            f"the demo needs {error.name}: use ./run demo, which installs it"
        ) from error
    return run_demo(options.output)
