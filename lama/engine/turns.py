"""A lock that goes to whoever has waited longest."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """`with turns:` is for one thread at a time, in the order in which they came.

    Python's own lock goes to whoever asks first when it is free, which is the thread that has just
    given it back: a thread that works in many steps would let nobody in between.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Whose turn it is, and then those who wait.
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
