"""The way out: results into shared memory, announced in Redis, and then the inputs unlinked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from core.broker.connection import Backoff
from core.broker.queues import Queues
from core.claims import Claim, Outcome
from core.config import Settings
from core.contract import Job, Segment, result_fields, result_name_start
from core.errors import OutOfSharedMemory, TransientFailure
from core.faults import Fault, fault_point
from core.flow.failures import Failures
from core.identity import Identity
from core.pixels import shm
from core.pixels.copying import Copiers
from core.pixels.handover import Filled, Loaded, Restored
from core.pixels.stages import Finisher
from core.telemetry import tracing, transitions, watch

#: Seconds that finished results wait for room in shared memory. The next batch waits behind them,
#: and it may be its inputs that take the room, or those of jobs that are still in the queue.
ROOM_PATIENCE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A job whose result is in shared memory and not committed. It needs no pixels any more."""

    claim: Claim
    job: Job
    segment: Segment
    began_at: float


class Deliverer:
    """Stores the results of one batch after another, and commits them beside the next one's."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        queues: Queues,
        failures: Failures,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._queues = queues
        self._failures = failures
        self._stop = stop
        self._uids = settings.uids
        self._finisher = Finisher(settings)
        self._counter = itertools.count()
        #: Where results are finished and written.
        self.copiers = Copiers("store")
        self._unlink_thread = ThreadPoolExecutor(1, "unlink")
        self._cleaning: asyncio.Task[None] | None = None

    async def store(
        self,
        jobs: Sequence[tuple[Claim, Loaded]],
        pictures: Sequence[Filled],
        attempts: int,
        hand_on: Callable[[Sequence[Stored]], Awaitable[None]],
    ) -> list[Claim]:
        """Store the results of a batch with `attempts` failed tries behind it; `hand_on` what is.

        Returns those jobs whose results a stop has found without room in shared memory. Without a
        stop, such jobs are put off after a while.
        """
        backoff = Backoff()
        give_up_at = time.monotonic() + ROOM_PATIENCE_S
        left = [(*job, picture) for job, picture in zip(jobs, pictures, strict=True)]
        while left:
            outcomes = await self.copiers.each(self._store, left)
            stored: list[Stored] = []
            waiting: list[tuple[tuple[Claim, Loaded, Filled], OutOfSharedMemory]] = []
            for (claim, loaded, picture), outcome in zip(left, outcomes, strict=True):
                if isinstance(outcome, Stored):
                    stored.append(outcome)
                elif isinstance(outcome, OutOfSharedMemory):
                    transitions.waits(loaded.job, outcome)
                    waiting.append(((claim, loaded, picture), outcome))
                else:
                    await self._failures.add(claim, attempts, outcome)
            # What is stored doesn't wait with the rest: its consumer may be who makes room.
            if stored:
                await hand_on(stored)
            left = [job for job, _ in waiting]
            if not left or self._stop.is_set():
                break
            if time.monotonic() >= give_up_at:
                for (claim, _, _), shortage in waiting:
                    await self._failures.postpone(claim, shortage)
                return []
            # Computed and waiting: if this process dies meanwhile, not on them.
            self._queues.mark_work([claim for claim, _, _ in left], working=False)
            await backoff.wait(unless=self._stop)
        return [claim for claim, _, _ in left]

    def _store(self, claim: Claim, loaded: Loaded, picture: Filled) -> Stored:
        if isinstance(picture, TransientFailure):
            raise picture
        assert isinstance(picture, np.ndarray | Restored), "it was not collected"
        start = result_name_start(self._settings, self._identity.worker, claim.payload)
        name = f"{start}{next(self._counter)}"
        result = self._finisher(loaded, picture)
        shm.write(name, result, self._settings.shm_file_mode, loaded.owner)
        fault_point(Fault.SEGMENT_WRITTEN)
        watch.previews.keep(loaded.job, lambda: self._finisher.before(loaded), result)
        segment = Segment(name, result.shape, np.dtype(np.uint8))
        return Stored(claim, loaded.job, segment, loaded.began_at)

    async def commit(self, stored: Sequence[Stored]) -> int:
        """Commit jobs and begin to clean up after them; how many were still this worker's.

        Together: their commands go to Redis in one go, and their segments in one. To be called for
        one batch after another.
        """
        # Redis may take its time: if this process dies meanwhile, not on them.
        self._queues.mark_work([one.claim for one in stored], working=False)
        with watch.stage("commit"):
            outcomes = await asyncio.gather(*(self._commit(one) for one in stored))
        fault_point(Fault.COMMITTED)
        # What is announced may be cleaned up after while the next batch is committed.
        await self.wait_for_cleanup()
        self._cleaning = asyncio.create_task(self._clean(stored, outcomes))
        return sum(outcome is Outcome.COMMITTED for outcome, _ in outcomes)

    async def wait_for_cleanup(self) -> None:
        """Returns once the inputs of all that was delivered are gone."""
        if self._cleaning is not None:
            await self._cleaning
            self._cleaning = None

    async def _clean(
        self, stored: Sequence[Stored], outcomes: Sequence[tuple[Outcome, str]]
    ) -> None:
        """Removes what nobody needs any more: inputs, older results, results that came too late."""
        replaced, useless, done = [], [], []
        for one, (outcome, old) in zip(stored, outcomes, strict=True):
            if outcome is Outcome.COMMITTED:
                done.append(one)
                replaced += [(one.job.request_id, old)] * bool(old)
                continue
            useless.append(one.segment.name)
            if outcome is Outcome.SUPERSEDED:
                await self._failures.drop_superseded(one.claim)
                replaced.append((one.job.request_id, one.segment.name))
            else:
                transitions.lost(one.claim, one.job)
        if replaced:
            await self._unlink(*(name for _, name in replaced))
            fault_point(Fault.REPLACED_UNLINKED)
            await asyncio.gather(*(self._queues.forget_replaced(*one) for one in replaced))
        inputs = [name for one in done for name in (one.job.image.name, one.job.mask.name)]
        await self._unlink(*useless, *inputs)
        if done:
            fault_point(Fault.INPUTS_UNLINKED)
        await asyncio.gather(
            *(
                self._queues.drop_cleanup_entry(
                    one.claim, f"{one.segment.name} {one.job.request_id}"
                )
                for one in done
            )
        )
        for one in done:
            fault_point(Fault.CLEANED)
            transitions.done(one.job, one.segment.name)

    async def _commit(self, one: Stored) -> tuple[Outcome, str]:
        kind = one.claim.kind
        fields = result_fields(one.job, one.segment, kind, self._identity.worker)
        fields |= tracing.done(one.claim.payload, one.began_at, {"inpainting.queue": kind})
        return await self._queues.commit(one.claim, one.job.request_id, one.segment.name, fields)

    async def _unlink(self, *names: str) -> None:
        loop = asyncio.get_running_loop()
        with watch.stage("unlink"):
            await loop.run_in_executor(self._unlink_thread, shm.unlink_all, names, self._uids)
