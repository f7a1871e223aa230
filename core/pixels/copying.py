"""Thread pools that copy a batch's segments from and to shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from core.machine import cpu_limit
from core.telemetry import watch

Outcome = TypeVar("Outcome")

#: Largest number of threads that copy; more are limited by the memory's bandwidth.
MOST: Final = 4


class Copiers:
    """A thread pool. Most of a copy is work of the kernel, which runs in parallel."""

    def __init__(self, name: str) -> None:
        """`name` is the name of the stage."""
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
        """Call `act` with the arguments in each item; the results or exceptions, in order.

        An error of one job does not affect the rest of its batch. /livez reports a call that hangs,
        unless `waits_for_device`: that has a timeout of its own.
        """
        with contextlib.nullcontext() if waits_for_device else watch.stage(self._name):
            return await self._each(act, items)

    async def _each(
        self, act: Callable[..., Outcome], items: Sequence[Sequence[object]]
    ) -> list[Outcome | Exception]:
        loop = asyncio.get_running_loop()
        # One call per thread: the end of each call wakes the event loop, which competes for cores.
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
    """The best number of threads that copy from or to shared memory.

    Half the number of available cores, because reading and storing run at the same time.
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
