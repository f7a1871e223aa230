"""What goes wrong with one picture, and what is worth a remark although it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class PictureError(Exception):
    """One picture cannot be done. `reason` is a code for programs, the text is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both arguments, so that it can be pickled
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


class Remark(NamedTuple):
    """What a user should know of a picture that is done; `reason` is a code for programs."""

    reason: str
    text: str


@contextmanager
def named(reason: str) -> Iterator[None]:
    """Turns any other exception into a PictureError, so that one picture cannot end the run."""
    try:
        yield
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(reason, f"{type(error).__name__}: {error}") from error
