"""Threads that share what is to be done to each job of a batch: reading it, writing its result."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from core.cores import cpu_limit
from core.telemetry import watch

Outcome = TypeVar("Outcome")

#: Threads that copy at most: with more of them, memory is what they wait for.
MOST: Final = 4


class Copiers:
    """Some threads; most of what a copy takes is the system's work, which cores do side by side."""

    def __init__(self, name: str) -> None:
        """`name` is the stage's."""
        self._name = name
        self._count = copying_threads()
        self.threads = ThreadPoolExecutor(self._count, name)

    async def each(
        self,
        act: Callable[..., Outcome],
        items: Sequence[Sequence[object]],
        *,
        waits_for_device: bool = False,
    ) -> list[Outcome | Exception]:
        """What a call returns or raises for the arguments in each item.

        So one job's error doesn't touch its batch mates. /livez tells of a call that doesn't come
        back, unless it may wait for a device, which has a time-out of its own.
        """
        with contextlib.nullcontext() if waits_for_device else watch.stage(self._name):
            return await self._each(act, items)

    async def _each(
        self, act: Callable[..., Outcome], items: Sequence[Sequence[object]]
    ) -> list[Outcome | Exception]:
        loop = asyncio.get_running_loop()
        # Once per thread: the loop is woken by each call's end, and competes with the others.
        shares = [items[first :: self._count] for first in range(min(self._count, len(items)))]
        calls = [loop.run_in_executor(self.threads, self._outcomes, act, share) for share in shares]
        outcomes = await asyncio.gather(*calls)
        return [outcomes[i % self._count][i // self._count] for i in range(len(items))]

    def _outcomes(
        self, act: Callable[..., Outcome], items: Sequence[Sequence[object]]
    ) -> list[Outcome | Exception]:
        outcomes = []
        for item in items:
            outcomes.append(_outcome_of(act, *item))
            watch.progressed(self._name)
        return outcomes


def copying_threads() -> int:
    """How many threads are worth having that copy from and to shared memory.

    Half as many as there are cores to be used, since reading and storing go on at the same time.
    """
    cores = float(len(os.sched_getaffinity(0)))
    if (limit := cpu_limit()) is not None:
        cores = min(cores, limit)
    return max(1, min(MOST, int(cores / 2)))


def _outcome_of(act: Callable[..., Outcome], *arguments: object) -> Outcome | Exception:
    try:
        return act(*arguments)
    except Exception as error:
        return error
