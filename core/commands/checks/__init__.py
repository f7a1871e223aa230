"""Checks of everything that a worker needs. A finding says what to do about a failure."""

from core.commands.checks.finding import Finding, Level
from core.commands.checks.rounds import CHECKS, examine

__all__ = ["CHECKS", "Finding", "Level", "examine"]
