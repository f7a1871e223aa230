"""The entry point: python worker.py [COMMAND].

Commands are run (the default), status, dead, submit, bulk, settings, health, doctor and demo.

`core` and `lama` only need to be importable, not beside this file: some deployments mount it
elsewhere and set PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys

#: Commands of packages that may be absent: the image has no demo.
OPTIONAL_COMMANDS = ("bulk.command", "demo.command")

OLDEST_PYTHON = (3, 11)

TOO_OLD = "Python {}.{} or newer is needed, this is {}.{}: try ./run python worker.py"

FOREIGN_CORE = (
    "the package `core` that Python finds ({found}) is not this worker's: something else is "
    "mounted over it. Mount this project's core/ there, or remove that mount"
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    if sys.version_info < OLDEST_PYTHON:
        return _complain(TOO_OLD.format(*OLDEST_PYTHON, *sys.version_info))
    if foreign := _foreign_core():
        return _complain(foreign)
    try:
        from core.commands import dead, doctor, health, run, settings, status, submit
        from core.commands import main as run_command
    except ImportError as error:
        from core.errors import import_problem

        return _complain(import_problem(error))
    commands = [run, status, dead, submit, settings, health, doctor]
    for name in OPTIONAL_COMMANDS:
        with contextlib.suppress(ModuleNotFoundError):
            commands.append(importlib.import_module(name))
    return run_command(arguments, commands)


def _foreign_core() -> str | None:
    """An error text if the package `core` that Python finds is not this project's, else None."""
    try:
        import core
    except ModuleNotFoundError as error:
        if error.name == "core":
            return "the package `core` is not found: set PYTHONPATH to the folder that contains it"
        return FOREIGN_CORE.format(found=error)
    except Exception as error:  # a foreign package may raise anything
        return FOREIGN_CORE.format(found=error)
    if getattr(core, "PROJECT", None) != "inpainting-worker":
        return FOREIGN_CORE.format(found=next(iter(core.__path__)))
    return None


def _complain(problem: str) -> int:
    print(f"worker.py: {problem}", file=sys.stderr)
    return 1


def _end_on_signals(arguments: list[str]) -> None:
    """Let SIGTERM end the process at once, until the command has a handler of its own.

    Process 1 of a container ignores signals without a handler, and the imports take a second. The
    worker has begun nothing by then, so its stop is clean; Ctrl-C is the same.
    """
    is_worker = arguments[:1] in ([], ["run"])
    status = 0 if is_worker else 128 + signal.SIGTERM
    for number in (signal.SIGTERM, signal.SIGINT) if is_worker else (signal.SIGTERM,):
        signal.signal(number, lambda *_: os._exit(status))


if __name__ == "__main__":
    _end_on_signals(sys.argv[1:])
    sys.exit(main())
