"""Redis' clock, by which jobs expire: the clocks of several hosts may differ."""

from __future__ import annotations

import time


class ServerClock:
    """The server's time, as of the last reply that had it. Before the first one, this host's."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()

    def set(self, seconds: bytes | int, microseconds: bytes | int) -> None:
        """Take over the reply of `TIME`."""
        self._ahead_s = int(seconds) + int(microseconds) / 1e6 - time.monotonic()

    def now(self) -> float:
        """Unix seconds."""
        return time.monotonic() + self._ahead_s
