"""Redis' clock, by which jobs expire: the clocks of several hosts may differ."""

from __future__ import annotations

import time


class ServerClock:
    """The server's time, as of the last reply that had it. Before the first one, this host's."""

    def __init__(self) -> None:
        self._ahead_s = self._behind_s = time.time() - time.monotonic()

    def set(self, asked_at: float, seconds: bytes | int, microseconds: bytes | int) -> None:
        """Take over the reply of `TIME`, which has just come; asked for at a time.monotonic()."""
        replied = int(seconds) + int(microseconds) / 1e6
        self._ahead_s, self._behind_s = replied - asked_at, replied - time.monotonic()

    def now(self) -> float:
        """Unix seconds, never behind the server's, however long the reply took."""
        return time.monotonic() + self._ahead_s

    def earliest(self) -> float:
        """Unix seconds, never ahead of the server's."""
        return time.monotonic() + self._behind_s
