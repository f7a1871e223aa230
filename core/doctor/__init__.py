"""Checks of everything that a worker needs, each with what to do if it fails."""

from core.doctor.finding import Finding, Level
from core.doctor.rounds import CHECKS, examine

__all__ = ["CHECKS", "Finding", "Level", "examine"]
