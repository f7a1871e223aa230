"""`run`: serves the queues."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from core.commands.common import add_command
from core.config import doubts, load_settings
from core.errors import WorkerError, import_problem

log = logging.getLogger(__name__)


class ImportsDisagree(WorkerError):
    """The packages that Python finds do not belong together."""


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "run",
        "serve the queues until SIGTERM (the default)",
        "run\nrun --json 2> worker.log",
        command,
    )
    for action in parser._actions:
        if action.dest == "json":
            action.help = "log as JSON, like LOG_FORMAT=json"


def command(options: argparse.Namespace) -> int:
    """Serve; does not return."""
    from core.telemetry import configure_logging

    form = "json" if getattr(options, "json", False) else ""
    configure_logging("INFO", form or "text")  # first, so that no error waits for its reader
    settings = load_settings()
    configure_logging(settings.log_level, form or settings.log_format)
    for doubt in doubts():
        log.warning("%s", doubt)

    # After the settings, so that an invalid one is reported at once.
    try:
        from core.flow.service import serve
        from core.network import LaMa
    except ImportError as error:
        raise ImportsDisagree(import_problem(error)) from error

    return serve(settings, LaMa)
