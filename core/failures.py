"""What becomes of a job that was not done: it waits for another try, or it is dead."""

from __future__ import annotations

import asyncio
from typing import Final

from core import transitions
from core.config import Settings
from core.connection import pause
from core.contract import request_of
from core.errors import JobError, OutOfSharedMemory, TransientFailure
from core.faults import Fault, reach
from core.queues import Claim, Queues

#: Jobs that may wait for another try at once. Past it claiming pauses: what makes so many fail
#: (a wrong IPC namespace, say) is not mended by trying the rest.
MAX_DELAYED: Final = 256


class Failures:
    """Jobs that were not done, until they are back in their queue or on the dead list."""

    def __init__(self, settings: Settings, queues: Queues, stop: asyncio.Event) -> None:
        self._settings = settings
        self._queues = queues
        self._stop = stop
        self._delayed: set[asyncio.Task[None]] = set()

    @property
    def too_many(self) -> bool:
        """Whether so many jobs wait for another try that no more should be claimed."""
        return len(self._delayed) >= MAX_DELAYED

    async def wait_for_one(self, timeout_s: float) -> None:
        """Return when a job that waited is put back, or after a while."""
        await asyncio.wait(self._delayed, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    async def settle(self) -> None:
        """Return when all that wait are put back, which a stop has them be at once."""
        if self._delayed:
            await asyncio.wait(self._delayed)

    async def add(self, claim: Claim, attempts: int, error: Exception) -> None:
        """Have a job tried again later, or give it up, after `attempts` tries before this one."""
        if not isinstance(error, JobError):
            transitions.failed_unexpectedly(claim, error)
            error = TransientFailure("internal_error", f"{type(error).__name__}: {error}")
        allowed = self._settings.max_attempts
        tried = min(attempts + 1, allowed)
        if isinstance(error, TransientFailure) and tried < allowed:
            delay_s = self._settings.retry_delay_s * 2**attempts
            transitions.failed(claim, error, tried, allowed, delay_s)
            self._delay(claim, delay_s, counted=True)
        else:
            reach(Fault.FAILING)
            if await self._queues.fail(claim, error, tried, request_of(claim.payload)):
                transitions.failed(claim, error, tried, allowed, None)
            reach(Fault.FAILED)

    def postpone(self, claim: Claim, error: OutOfSharedMemory) -> None:
        """Have a job done later, behind the others of its queue, with nothing held against it."""
        delay_s = self._settings.retry_delay_s
        transitions.postponed(claim, error, delay_s)
        self._delay(claim, delay_s, counted=False)

    def _delay(self, claim: Claim, delay_s: float, *, counted: bool) -> None:
        task = asyncio.create_task(self._retry_after(claim, delay_s, counted=counted))
        self._delayed.add(task)
        task.add_done_callback(self._delayed.discard)

    async def _retry_after(self, claim: Claim, delay_s: float, *, counted: bool) -> None:
        """Put a job back after a delay, which a stop cuts short."""
        await pause(delay_s, unless=self._stop)
        reach(Fault.DELAYED)
        await self._queues.retry(claim, counted=counted)
        reach(Fault.RETRIED)
