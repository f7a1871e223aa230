"""Failed jobs: each is retried later, given back without an attempt, or given up."""

from __future__ import annotations

import asyncio
import contextlib

from core.broker.queues import Queues
from core.claims import Claim, Ending
from core.config import Settings
from core.contract import input_names
from core.errors import (
    Expired,
    JobError,
    OutOfSharedMemory,
    SharedMemoryRefusal,
    TransientFailure,
)
from core.faults import Fault, fault_point
from core.flow.device_hold import DeviceHold, may_be_the_devices
from core.pixels import shm
from core.recovery.visibility import ShmVisibility
from core.telemetry import transitions


class Failures:
    """Decides what happens to failed jobs, and does it."""

    def __init__(
        self, settings: Settings, queues: Queues, visibility: ShmVisibility, hold: DeviceHold
    ) -> None:
        self._settings = settings
        self._queues = queues
        self._visibility = visibility
        self._hold = hold

    async def add(self, claim: Claim, attempts: int, error: Exception) -> None:
        """Retry a job later or give it up, after `attempts` failed attempts before this one."""
        if not isinstance(error, JobError):
            transitions.failed_unexpectedly(claim, error)
            error = TransientFailure("internal_error", f"{type(error).__name__}: {error}")
        if self._visibility.excuses(claim, error):
            await self.leave(claim, error)
            return
        if isinstance(error, Expired):
            if self._visibility.leaves(claim):
                await self.leave(claim, error)
            else:
                await self._lapse(claim, error)
            return
        allowed = self._settings.max_attempts
        attempt = min(attempts + 1, allowed)
        if isinstance(error, TransientFailure) and attempt < allowed:
            await self._retry(claim, error, attempts, attempt)
        else:
            await self._give_up(claim, error, attempt)

    async def leave(self, claim: Claim, why: Exception) -> None:
        """Give a job back without an attempt, for other workers."""
        transitions.given_back(claim, why)
        await self._queues.retry(claim, counted=False)

    async def postpone(self, claim: Claim, error: OutOfSharedMemory) -> None:
        """Put a job behind the others of its queue, without an attempt."""
        delay_s = self.delay_s(0)
        transitions.postponed(claim, error, delay_s)
        await self._queues.retry(claim, counted=False, delay_s=delay_s)

    async def drop_superseded(self, claim: Claim) -> None:
        """Unlink the inputs of a superseded job."""
        transitions.superseded(claim)
        await self._remove_inputs(claim)

    def delay_s(self, attempts: int) -> float:
        """Seconds until the next attempt at a job that had failed `attempts` times before."""
        doubled = float(self._settings.retry_delay_s * 2 ** min(attempts, 30))
        return min(doubled, float(self._settings.retry_delay_max_s))

    async def _lapse(self, claim: Claim, error: Expired) -> None:
        """End a job that has expired. It is on no list, since nobody waits for it."""
        ending = await self._queues.lapse(claim, claim.request or ("", ""), error)
        fault_point(Fault.LAPSED)
        if ending is Ending.EXPIRED:
            transitions.expired(claim, error)
            await self._remove_inputs(claim)
        elif ending is Ending.SUPERSEDED:
            await self.drop_superseded(claim)

    async def _remove_inputs(self, claim: Claim) -> None:
        names = input_names(claim.payload, self._settings.wire_format)
        # A read-only shared memory leaves them to a reaper, after this worker's end.
        with contextlib.suppress(SharedMemoryRefusal):
            await asyncio.to_thread(shm.unlink_all, names, self._settings.uids)
            await self._queues.drop_cleanup_entry(claim)

    async def _retry(
        self, claim: Claim, error: TransientFailure, attempts: int, attempt: int
    ) -> None:
        delay_s = self.delay_s(attempts)
        transitions.failed(claim, error, attempt, self._settings.max_attempts, delay_s)
        fault_point(Fault.DELAYED)
        is_excused = self._hold.is_active and may_be_the_devices(error)
        await self._queues.retry(claim, counted=not is_excused, delay_s=delay_s)
        fault_point(Fault.RETRIED)

    async def _give_up(self, claim: Claim, error: JobError, attempt: int) -> None:
        fault_point(Fault.FAILING)
        ending = await self._queues.fail(
            claim, error, attempt, claim.request, device=may_be_the_devices(error)
        )
        if ending is Ending.FAILED:
            transitions.failed(claim, error, attempt, self._settings.max_attempts, None)
        elif ending is Ending.SUPERSEDED:
            await self.drop_superseded(claim)
        elif ending is Ending.HELD:
            self._hold.begin(error)
            transitions.given_back(claim, error)
            await self._queues.retry(claim, counted=False, delay_s=self.delay_s(0))
        fault_point(Fault.FAILED)
