"""Clients of Redis that follow the worker to another server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from core.telemetry import Watch

Made = TypeVar("Made")


class Renewed(Generic[Made]):
    """Something on a client of Redis, made anew once the worker has had to reconnect.

    Behind one address there may be another server since. The old one may still be there, and
    answer as a replica that refuses writes and lags behind.
    """

    def __init__(self, watch: Watch, make: Callable[[], Made]) -> None:
        self._watch = watch
        self._make = make
        self._made: tuple[int, Made] | None = None

    def __call__(self) -> Made:
        """What was made for the connections that the worker has at present."""
        made, reconnections = self._made, self._watch.reconnections
        if made is None or made[0] != reconnections:
            made = self._made = reconnections, self._make()
        return made[1]

    def renew(self) -> None:
        """Have it made anew the next time: it led to a server that did not do what was asked."""
        self._made = None
