"""Delivery: write results to shared memory, commit them in Redis, then unlink the inputs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from core.broker.connection import Backoff
from core.broker.queues import Queues
from core.claims import Claim, Ending
from core.config import Settings
from core.contract import Job, Segment, result_fields, result_name_start
from core.errors import OutOfSharedMemory, SharedMemoryRefusal, TransientFailure
from core.faults import Fault, fault_point
from core.flow.failures import Failures
from core.flow.writability import ShmWritability
from core.identity import Identity
from core.pixels import shm
from core.pixels.copying import Copiers
from core.pixels.handover import Filled, Loaded, Restored
from core.pixels.stages import Finisher
from core.telemetry import tracing, transitions, watch

#: Seconds that finished results wait for room in shared memory. The wait holds up the next batch,
#: whose inputs, or those of jobs in the queue, may be what fills the memory.
ROOM_PATIENCE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A job whose result is in shared memory and not yet committed. Its pixels are released."""

    claim: Claim
    job: Job
    segment: Segment
    began_at: float


@dataclass(slots=True)
class Results:
    """The results of a batch.

    `stored` are those to be committed, `delivered` is the number of committed ones. `unstored` are
    jobs whose results still waited for room in shared memory when the worker was stopped.
    """

    stored: list[Stored] = field(default_factory=list)
    delivered: int = 0
    unstored: list[Claim] = field(default_factory=list)


class Deliverer:
    """Stores and commits the results of batches; a batch is committed while the next is stored."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        queues: Queues,
        failures: Failures,
        writability: ShmWritability,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._queues = queues
        self._failures = failures
        self._writability = writability
        self._stop = stop
        self._uids = settings.uids
        self._finisher = Finisher(settings.mask_threshold)
        self._counter = itertools.count()
        #: The threads that finish and write results.
        self._copiers = Copiers("store")
        self._unlink_thread = ThreadPoolExecutor(1, "unlink")
        self._committing = asyncio.Lock()
        self._cleaning: asyncio.Task[None] | None = None

    async def store(
        self, jobs: Sequence[tuple[Claim, Loaded]], pictures: Sequence[Filled], attempts: int
    ) -> Results:
        """Store the results of a batch whose jobs have `attempts` failed attempts.

        If some find no room in shared memory, the stored ones are committed at once: their
        receivers free memory. The others wait; after ROOM_PATIENCE_S their jobs are postponed.
        """
        results = Results()
        backoff = Backoff()
        give_up_at = time.monotonic() + ROOM_PATIENCE_S
        remaining = [(*job, picture) for job, picture in zip(jobs, pictures, strict=True)]
        while True:
            results.stored, shortages = await self._store_each(remaining, attempts)
            remaining = [job for job, _ in shortages]
            if not remaining:
                return results
            await self.commit(results)
            claims = [claim for claim, _, _ in remaining]
            if self._stop.is_set():
                results.unstored = claims
                return results
            if time.monotonic() >= give_up_at:
                for claim, (_, shortage) in zip(claims, shortages, strict=True):
                    await self._failures.postpone(claim, shortage)
                return results
            # These jobs only wait: if this process dies meanwhile, they are not to blame.
            self._queues.mark_work(claims, working=False)
            await backoff.wait(unless=self._stop)

    async def _store_each(
        self, jobs: Sequence[tuple[Claim, Loaded, Filled]], attempts: int
    ) -> tuple[list[Stored], list[tuple[tuple[Claim, Loaded, Filled], OutOfSharedMemory]]]:
        """Store each result once; returns those that are stored, and those without room."""
        stored: list[Stored] = []
        shortages: list[tuple[tuple[Claim, Loaded, Filled], OutOfSharedMemory]] = []
        outcomes = await self._copiers.each(self._store, jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            claim, loaded, _ = job
            if isinstance(outcome, Stored):
                stored.append(outcome)
            elif isinstance(outcome, OutOfSharedMemory):
                transitions.waits(loaded.job, outcome)
                shortages.append((job, outcome))
            elif isinstance(outcome, SharedMemoryRefusal):
                self._writability.note(outcome, loaded.owner)
                await self._failures.leave(claim, outcome)
            else:
                await self._failures.add(claim, attempts, outcome)
        return stored, shortages

    def _store(self, claim: Claim, loaded: Loaded, picture: Filled) -> Stored:
        if isinstance(picture, TransientFailure):
            raise picture
        assert isinstance(picture, np.ndarray | Restored), "it was not collected"
        start = result_name_start(
            self._identity.worker, claim.payload, prefix=self._settings.shm_name_prefix
        )
        name = f"{start}{next(self._counter)}"
        result = self._finisher(loaded, picture)
        shm.write(name, result, self._settings.shm_file_mode, loaded.owner)
        fault_point(Fault.SEGMENT_WRITTEN)
        watch.previews.keep(loaded.job, lambda: self._finisher.before(loaded), result)
        segment = Segment(name, result.shape, np.dtype(np.uint8))
        return Stored(claim, loaded.job, segment, loaded.began_at)

    async def commit(self, results: Results) -> None:
        """Commit the stored results of a batch and start to clean up after them.

        Batches are committed one after another, in the order of the calls; the commands of a batch
        go to Redis in one pipeline.
        """
        stored, results.stored = results.stored, []
        if not stored:
            return
        async with self._committing:
            # These only wait for Redis: if this process dies meanwhile, they are not to blame.
            self._queues.mark_work([result.claim for result in stored], working=False)
            with watch.stage("commit"):
                endings = await asyncio.gather(*(self._commit(result) for result in stored))
            fault_point(Fault.COMMITTED)
            # The cleanup of this batch runs while the next one is committed.
            await self.wait_for_cleanup()
            self._cleaning = asyncio.create_task(self._clean(stored, endings))
        results.delivered += sum(ending is Ending.COMMITTED for ending, _ in endings)

    async def wait_for_cleanup(self) -> None:
        """Wait until the inputs of everything delivered are unlinked.

        A read-only shared memory leaves them to a reaper, after this worker's end.
        """
        if self._cleaning is not None:
            with contextlib.suppress(SharedMemoryRefusal):
                await self._cleaning
            self._cleaning = None

    async def _clean(self, stored: Sequence[Stored], endings: Sequence[tuple[Ending, str]]) -> None:
        """Remove what is no longer needed: inputs, replaced results, uncommitted results."""
        replaced, useless, done = [], [], []
        for result, (ending, old) in zip(stored, endings, strict=True):
            if ending is Ending.COMMITTED:
                done.append(result)
                replaced += [(result.job.request_id, old)] * bool(old)
                continue
            useless.append(result.segment.name)
            if ending is Ending.SUPERSEDED:
                await self._failures.drop_superseded(result.claim)
                replaced.append((result.job.request_id, result.segment.name))
            else:
                transitions.lost(result.claim, result.job)
        if replaced:
            await self._unlink(*(name for _, name in replaced))
            fault_point(Fault.REPLACED_UNLINKED)
            await asyncio.gather(*(self._queues.forget_replaced(*old) for old in replaced))
        inputs = [name for result in done for name in (result.job.image.name, result.job.mask.name)]
        await self._unlink(*useless, *inputs)
        if done:
            fault_point(Fault.INPUTS_UNLINKED)
        await asyncio.gather(
            *(
                self._queues.drop_cleanup_entry(
                    result.claim, f"{result.segment.name} {result.job.request_id}"
                )
                for result in done
            )
        )
        for result in done:
            fault_point(Fault.CLEANED)
            transitions.done(result.job, result.segment.name)

    async def _commit(self, result: Stored) -> tuple[Ending, str]:
        claim, job, segment = result.claim, result.job, result.segment
        fields = result_fields(job, segment, claim.kind, self._identity.worker)
        fields |= tracing.done(claim.payload, result.began_at, {"inpainting.queue": claim.kind})
        return await self._queues.commit(claim, job.request_id, segment.name, fields)

    async def _unlink(self, *names: str) -> None:
        loop = asyncio.get_running_loop()
        with watch.stage("unlink"):
            await loop.run_in_executor(self._unlink_thread, shm.unlink_all, names, self._uids)
