"""Prepares the sizes of batches that occur often, while others are computed."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Final

logger = logging.getLogger(__name__)

#: (count, height, width) of a batch, and the number of windows that hold its holes, or 0.
Size = tuple[int, int, int, int]

#: A size is prepared when this many batches had it. A page's size is often seen only once, and
#: preparing takes as long as some ten batches.
OFTEN: Final = 8

#: The most sizes that are prepared. What is prepared keeps its memory: graphs are never dropped,
#: as torch clears the workspace of the others with any of them.
MOST: Final = 24

#: The most sizes that are counted; beyond it, counting begins anew.
MOST_COUNTED: Final = 4096


def powers_of_two(count: int) -> list[int]:
    """The powers of two whose sum is `count`, the largest first."""
    return [1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]


def pieces(
    frequent: Frequent,
    is_recorded: Callable[[int, int, int], bool],
    count: int,
    height: int,
    width: int,
) -> list[slice]:
    """`count` windows of a size in numbers that are recorded, if they all are; notes the numbers.

    The number of windows differs from batch to batch, so powers of two are recorded.
    """
    counts = powers_of_two(count)
    for some in counts:
        frequent.note((some, height, width, 0))
    if not all(is_recorded(some, height, width) for some in counts):
        return [slice(0, count)]
    return [slice(start, end) for start, end in pairwise((0, *accumulate(counts)))]


def in_background(work: Callable[[], None]) -> None:
    """Runs `work` in a thread that no process waits for."""
    threading.Thread(target=work, name="prepare often", daemon=True).start()


class Frequent:
    """Counts the sizes of batches and prepares those that occur often.

    Any thread may call `note`. One size is prepared at a time, in a thread that lives only as long
    as there are any.
    """

    def __init__(
        self,
        prepare: Callable[[int, int, int, int], None],
        start: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        """`prepare` gets ready for a size, and may raise RuntimeError; `start` runs a function."""
        self._prepare, self._start = prepare, start
        self._lock = threading.Lock()
        self._seen: Counter[Size] = Counter()
        self._asked: set[Size] = set()
        self._line: deque[Size] = deque()
        self._works = False

    def note(self, size: Size) -> None:
        """Counts a batch; returns at once."""
        with self._lock:
            if size in self._asked or len(self._asked) == MOST:
                return
            if len(self._seen) >= MOST_COUNTED:
                self._seen.clear()
            self._seen[size] += 1
            if self._seen[size] < OFTEN:
                return
            self._asked.add(size)
            self._line.append(size)
            if self._works:
                return
            self._works = True
        self._start(self._work)

    def _work(self) -> None:
        while size := self._next():
            try:
                self._prepare(*size)
            except RuntimeError as error:
                logger.warning("%s is not prepared: %s", size, str(error).splitlines()[0])

    def _next(self) -> Size | None:
        with self._lock:
            self._works = bool(self._line)
            return self._line.popleft() if self._works else None
