"""Errors of a whole run; those of one picture are in core.pictures.errors."""

from core.errors import WorkerError


class BulkRefused(WorkerError):
    """The run cannot start as requested."""
