"""`doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from dataclasses import asdict
from typing import Any

from core.commands.common import add_command, print_json
from core.config import load_settings
from core.errors import SettingsError
from core.telemetry.logs import printable

MARKS = {"ok": "ok  ", "warning": "warn", "problem": "FAIL"}


def add(commands: Any) -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "doctor",
        "check settings, /dev/shm, Redis and the model, and say how to mend what is wrong",
        "doctor\ndoctor redis shm\nREDIS_URL=redis://other:6379 python worker.py doctor --json",
        command,
    )
    parser.add_argument(
        "checks", nargs="*", metavar="CHECK", help="settings, shm, redis or model; all if none"
    )


def command(options: argparse.Namespace) -> int:
    """0 unless something keeps a worker from working."""
    from core.commands.checks import CHECKS, Finding, Level, examine

    if unknown := set(options.checks) - set(CHECKS):
        raise SettingsError(f"no check {', '.join(unknown)}: there are {', '.join(CHECKS)}")
    logging.getLogger().addHandler(logging.NullHandler())  # the findings say it
    try:
        settings = load_settings()
        found = examine(settings, options.checks or list(CHECKS))
    except SettingsError as error:
        mend = "set these environment variables as the text says, or unset them"
        found = iter([Finding("settings", Level.PROBLEM, str(error), mend)])
    findings = []
    for finding in found:
        findings.append(finding)
        if not options.json:
            print(printable(f"{MARKS[finding.level]}  {finding.check:<9} {finding.message}"))
            if finding.mend:
                print(printable(f"{'':15} → {finding.mend}"), flush=True)
    counts = Counter(finding.level for finding in findings)
    if options.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print(f"\n{counts[Level.PROBLEM]} problems, {counts[Level.WARNING]} warnings")
    return 1 if counts[Level.PROBLEM] else 0
