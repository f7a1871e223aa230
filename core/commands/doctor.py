"""`doctor`: checks everything a worker needs and suggests fixes."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from dataclasses import asdict
from typing import Any

from core.commands.common import add_command, print_json
from core.config import load_settings
from core.errors import SettingsError
from core.telemetry.logs import number_of, printable

MARKS = {"ok": "ok  ", "warning": "warn", "problem": "FAIL"}


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "doctor",
        "check settings, /dev/shm, Redis and the model, and suggest fixes",
        "doctor\ndoctor redis shm\ndoctor --json",
        command,
    )
    parser.add_argument(
        "checks", nargs="*", metavar="CHECK", help="settings, shm, redis or model; default: all"
    )


def command(options: argparse.Namespace) -> int:
    """Print the findings; returns 1 if one of them is a problem, else 0."""
    from core.commands.checks import CHECKS, Finding, Level, examine

    if unknown := set(options.checks) - set(CHECKS):
        raise SettingsError(f"no check {', '.join(unknown)}: there are {', '.join(CHECKS)}")
    logging.getLogger().addHandler(logging.NullHandler())  # findings replace log lines
    try:
        settings = load_settings()
        running = examine(settings, options.checks or list(CHECKS))
    except SettingsError as error:
        remedy = "set these environment variables as the text says, or unset them"
        running = iter([Finding("settings", Level.PROBLEM, str(error), remedy)])
    findings = []
    for finding in running:
        findings.append(finding)
        if not options.json:
            print(printable(f"{MARKS[finding.level]}  {finding.check:<9} {finding.message}"))
            if finding.remedy:
                print(printable(f"{'':15} → {finding.remedy}"), flush=True)
    counts = Counter(finding.level for finding in findings)
    if options.json:
        print_json([asdict(finding) for finding in findings])
    else:
        problems, warnings = counts[Level.PROBLEM], counts[Level.WARNING]
        print(f"\n{number_of(problems, 'problem')}, {number_of(warnings, 'warning')}")
    return 1 if counts[Level.PROBLEM] else 0
