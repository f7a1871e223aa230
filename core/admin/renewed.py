"""Redis clients that are replaced when the worker has reconnected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from core.telemetry import Watch

Made = TypeVar("Made")


class Renewed(Generic[Made]):
    """An object that uses a Redis client, created again after the worker has reconnected.

    After a reconnection the address may lead to another server. The old one may still answer, as a
    replica that refuses writes and lags behind.
    """

    def __init__(self, watch: Watch, make: Callable[[], Made]) -> None:
        self._watch = watch
        self._make = make
        self._made: tuple[int, Made] | None = None

    def __call__(self) -> Made:
        """The object for the worker's current connections."""
        made, reconnections = self._made, self._watch.reconnections
        if made is None or made[0] != reconnections:
            made = self._made = reconnections, self._make()
        return made[1]

    def renew(self) -> None:
        """Create the object again at the next call, because its server has failed a command."""
        self._made = None
