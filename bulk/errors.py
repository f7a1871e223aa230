"""What can go wrong: with the whole run, or with one picture of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import WorkerError


class BulkRefused(WorkerError):
    """The run cannot begin as it was asked for."""


class PictureError(Exception):
    """One picture cannot be done. `reason` is a code for programs, the text is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, so that it can be pickled
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


@contextmanager
def named(reason: str) -> Iterator[None]:
    """Makes a PictureError of whatever else is raised inside: one picture must not end others."""
    try:
        yield
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(reason, f"{type(error).__name__}: {error}") from error
