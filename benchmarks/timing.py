"""Timing competitors side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds of every competitor, one per round, in the order of the rounds."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds of one competitor."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, baseline: str) -> float:
        """How many times as fast as `baseline`: the median over the rounds."""
        pairs = zip(self.seconds[baseline], self.seconds[name], strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)


def alternate(
    competitors: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> Timings:
    """Runs all competitors once per round, each round in the other direction (AB BA AB …).

    `warm_up` rounds come first and are not counted. On a machine that others use too, neighbours
    within a round suffer alike, which is why ratios are taken within it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for number in range(-warm_up, rounds):
        for name in list(competitors)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            competitors[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return Timings(seconds)
