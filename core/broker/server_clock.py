"""Redis' clock, by which jobs expire: the clocks of several hosts may differ."""

from __future__ import annotations

import time


class ServerClock:
    """The server's time, as of the last reply that had it. Before the first one, this host's."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()

    def set(self, asked_at: float, seconds: bytes | int, microseconds: bytes | int) -> None:
        """Take over the reply of `TIME`, asked for at a time.monotonic().

        This clock is never behind the server's, however long the reply took.
        """
        self._ahead_s = int(seconds) + int(microseconds) / 1e6 - asked_at

    def now(self) -> float:
        """Unix seconds."""
        return time.monotonic() + self._ahead_s
