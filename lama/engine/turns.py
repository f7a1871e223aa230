"""A lock that threads get in the order in which they asked for it."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A fair lock: `with turns:` admits one thread at a time, in the order of their arrival.

    Python's own lock goes to the first thread that asks while it is free, which is the one that has
    just released it: a thread that works in many steps would keep all others out.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: The thread that holds the lock, then those that wait.
        self._line: deque[object] = deque()

    def __enter__(self) -> None:
        mine = object()
        with self._changed:
            self._line.append(mine)
            try:
                self._changed.wait_for(lambda: self._line[0] is mine)
            except BaseException:  # Ctrl-C: the others must not wait for this one
                self._line.remove(mine)
                self._changed.notify_all()
                raise

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._line.popleft()
            self._changed.notify_all()
