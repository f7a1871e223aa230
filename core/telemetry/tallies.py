"""Histograms, durations of a recent window, and a history of samples."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Final

#: Upper bounds, in seconds, of the buckets of durations.
DURATIONS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0),
)

#: Upper bounds of the buckets of batch sizes, in jobs.
SIZES: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0)


class Histogram:
    """Counts values by size, as Prometheus does."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, count: int = 1) -> None:
        """Count a value that occurred `count` times."""
        self._counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def cumulative(self) -> list[tuple[str, int]]:
        """For each upper bound, `+Inf` last, how many values are at most that."""
        buckets, total = [], 0
        for bound, count in zip((*self.bounds, None), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound is None else str(bound), total))
        return buckets


class Durations:
    """Durations, in seconds, of what ended within the last `window_s` seconds, for percentiles."""

    def __init__(self, window_s: float, most: int = 4096) -> None:
        self._window_s = window_s
        self._ended: deque[tuple[float, float]] = deque(maxlen=most)

    def add(self, now: float, seconds: float) -> None:
        """Add the duration of something that has just ended."""
        self._ended.append((now, seconds))

    def count(self, now: float) -> int:
        """How many ended within the window."""
        return len(self._current(now))

    def percentiles(self, now: float, *shares: float) -> list[float | None]:
        """For each share (0 to 1) the duration that this share did not exceed; None if empty."""
        current = sorted(self._current(now))
        if not current:
            return [None for _ in shares]
        return [current[min(len(current) - 1, int(share * len(current)))] for share in shares]

    def _current(self, now: float) -> list[float]:
        return [seconds for ended, seconds in self._ended if now - ended <= self._window_s]


class History:
    """A table of numbered rows with named columns; the oldest rows are dropped."""

    def __init__(self, columns: Sequence[str], most: int) -> None:
        self._columns = tuple(columns)
        self._rows: deque[tuple[float | None, ...]] = deque(maxlen=most)
        self._count = 0

    def add(self, **row: float | None) -> None:
        """Append a row."""
        self._rows.append(tuple(row[column] for column in self._columns))
        self._count += 1

    def after(self, number: int) -> tuple[int, dict[str, list[float | None]]]:
        """The number of the last row, and the columns of all rows after `number` (0: all)."""
        if number > self._count:  # from an earlier worker
            number = 0
        fresh = list(self._rows)[max(0, len(self._rows) - (self._count - number)) :]
        return self._count, {
            column: [row[index] for row in fresh] for index, column in enumerate(self._columns)
        }
