"""The worker's own commands of worker.py. Each module has `add`, which defines its arguments.

Modules that take long to import (torch, OpenCV) are imported only by the commands that need them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from core.commands import run
from core.errors import WorkerError, import_problem
from core.telemetry.logs import printable


class Command(Protocol):
    """A module that defines a command."""

    def add(self, commands: Any) -> None:
        """Add the command's parser."""


def main(arguments: list[str] | None, commands: Sequence[Command]) -> int:
    """Run one of the commands, `run` by default; returns the exit status."""
    options = _parser(commands).parse_args(arguments)
    try:
        return int(options.command(options))
    except ModuleNotFoundError as error:  # a package that only this command imports
        print(f"worker.py: {printable(import_problem(error))}", file=sys.stderr)
        return 1
    except WorkerError as error:
        if getattr(options, "json", False):
            print(json.dumps({"error": str(error)}))
        print(f"worker.py: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush
        return 1


def _parser(modules: Sequence[Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="worker.py",
        description="Erases text from pictures: takes jobs from Redis, fills the holes with LaMa.",
        epilog="Settings are environment variables, also read from .env: `settings` lists them. "
        "COMMAND --help has examples.",
    )
    parser.set_defaults(command=run.command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in modules:
        module.add(commands)
    return parser
