"""Threads that share what is to be done to each job of a batch: reading it, writing its result."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from core.cores import cpu_limit

Outcome = TypeVar("Outcome")

#: Threads that copy at most: with more of them, memory is what they wait for.
MOST: Final = 4


class Copiers:
    """Some threads; most of what a copy takes is the system's work, which cores do side by side."""

    def __init__(self, name: str) -> None:
        self._count = copying_threads()
        self.threads = ThreadPoolExecutor(self._count, name)

    async def each(
        self, act: Callable[..., Outcome], items: Sequence[Sequence[object]]
    ) -> list[Outcome | Exception]:
        """What a call returns or raises for the arguments in each item.

        So one job's error doesn't touch its batch mates.
        """
        loop = asyncio.get_running_loop()
        # Once per thread: the loop is woken by each call's end, and competes with the others.
        shares = [items[first :: self._count] for first in range(min(self._count, len(items)))]
        calls = [loop.run_in_executor(self.threads, _outcomes, act, share) for share in shares]
        outcomes = await asyncio.gather(*calls)
        return [outcomes[i % self._count][i // self._count] for i in range(len(items))]


def copying_threads() -> int:
    """How many threads are worth having that copy from and to shared memory.

    Half as many as there are cores to be used, since reading and storing go on at the same time.
    """
    cores = float(len(os.sched_getaffinity(0)))
    if (limit := cpu_limit()) is not None:
        cores = min(cores, limit)
    return max(1, min(MOST, int(cores / 2)))


def _outcomes(
    act: Callable[..., Outcome], items: Sequence[Sequence[object]]
) -> list[Outcome | Exception]:
    return [_outcome_of(act, *item) for item in items]


def _outcome_of(act: Callable[..., Outcome], *arguments: object) -> Outcome | Exception:
    try:
        return act(*arguments)
    except Exception as error:
        return error
