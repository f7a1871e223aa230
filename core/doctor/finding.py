"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is: a worker cannot work with a problem, a warning is worth a look."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing and, unless all is well, how to mend it."""

    check: str
    level: Level
    message: str
    mend: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, mend: str) -> Finding:
    return Finding(check, Level.WARNING, message, mend)


def problem(check: str, message: str, mend: str) -> Finding:
    return Finding(check, Level.PROBLEM, message, mend)
