"""Checks of everything that a worker needs, each with what to do if it fails."""

from core.commands.checks.finding import Finding, Level
from core.commands.checks.rounds import CHECKS, examine

__all__ = ["CHECKS", "Finding", "Level", "examine"]
