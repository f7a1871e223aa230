"""The way out: results into shared memory, announced in Redis, and then the inputs unlinked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from core.broker.connection import Backoff
from core.broker.queues import Queues
from core.claims import Claim, Outcome
from core.config import Settings
from core.contract import Job, Segment, result_fields, result_name_start
from core.errors import OutOfSharedMemory, TransientFailure
from core.faults import Fault, reach
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


@dataclass(slots=True)
class Results:
    """What has become of the results of a batch.

    `stored` are to be committed, `delivered` counts those that are committed, `unstored` are jobs
    for whose results a stop found no room in shared memory.
    """

    stored: list[Stored] = field(default_factory=list)
    delivered: int = 0
    unstored: list[Claim] = field(default_factory=list)


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
        self._committing = asyncio.Lock()
        self._cleaning: asyncio.Task[None] | None = None

    async def store(
        self, jobs: Sequence[tuple[Claim, Loaded]], pictures: Sequence[Filled], attempts: int
    ) -> Results:
        """Store the results of a batch with `attempts` failed tries behind it.

        Where there is no room in shared memory, what is stored is committed at once: its consumer
        may make room. The rest waits a while and is then put off, unless a stop comes.
        """
        results = Results()
        backoff = Backoff()
        give_up_at = time.monotonic() + ROOM_PATIENCE_S
        waiting = [(*job, picture) for job, picture in zip(jobs, pictures, strict=True)]
        while True:
            results.stored, shortages = await self._store_each(waiting, attempts)
            waiting = [job for job, _ in shortages]
            if not waiting:
                return results
            await self.commit(results)
            claims = [claim for claim, _, _ in waiting]
            if self._stop.is_set():
                results.unstored = claims
                return results
            if time.monotonic() >= give_up_at:
                for claim, (_, shortage) in zip(claims, shortages, strict=True):
                    await self._failures.postpone(claim, shortage)
                return results
            # Computed and waiting: if this process dies meanwhile, they are not to blame.
            self._queues.mark_work(claims, working=False)
            await backoff.wait(unless=self._stop)

    async def _store_each(
        self, jobs: Sequence[tuple[Claim, Loaded, Filled]], attempts: int
    ) -> tuple[list[Stored], list[tuple[tuple[Claim, Loaded, Filled], OutOfSharedMemory]]]:
        """Store results once; those that are stored, and those for which there is no room."""
        stored: list[Stored] = []
        shortages: list[tuple[tuple[Claim, Loaded, Filled], OutOfSharedMemory]] = []
        outcomes = await self.copiers.each(self._store, jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            claim, loaded, _ = job
            if isinstance(outcome, Stored):
                stored.append(outcome)
            elif isinstance(outcome, OutOfSharedMemory):
                transitions.waits(loaded.job, outcome)
                shortages.append((job, outcome))
            else:
                await self._failures.add(claim, attempts, outcome)
        return stored, shortages

    def _store(self, claim: Claim, loaded: Loaded, picture: Filled) -> Stored:
        if isinstance(picture, TransientFailure):
            raise picture
        assert isinstance(picture, np.ndarray | Restored), "it was not collected"
        start = result_name_start(self._settings, self._identity.worker, claim.payload)
        name = f"{start}{next(self._counter)}"
        result = self._finisher(loaded, picture)
        shm.write(name, result, self._settings.shm_file_mode, loaded.owner)
        reach(Fault.SEGMENT_WRITTEN)
        watch.previews.keep(loaded.job, lambda: self._finisher.before(loaded), result)
        segment = Segment(name, result.shape, np.dtype(np.uint8))
        return Stored(claim, loaded.job, segment, loaded.began_at)

    async def commit(self, results: Results) -> None:
        """Commit what is stored of a batch, and begin to clean up after it.

        Batches are committed one after another, in the order of the calls. The jobs of one go to
        Redis in one go, and their segments are unlinked in one.
        """
        stored, results.stored = results.stored, []
        if not stored:
            return
        async with self._committing:
            # Redis may take its time: if this process dies meanwhile, not on them.
            self._queues.mark_work([one.claim for one in stored], working=False)
            with watch.stage("commit"):
                outcomes = await asyncio.gather(*(self._commit(one) for one in stored))
            reach(Fault.COMMITTED)
            # What is announced may be cleaned up after while the next batch is committed.
            await self.cleaned()
            self._cleaning = asyncio.create_task(self._clean(stored, outcomes))
        results.delivered += sum(outcome is Outcome.COMMITTED for outcome, _ in outcomes)

    async def cleaned(self) -> None:
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
            reach(Fault.REPLACED_UNLINKED)
            await asyncio.gather(*(self._queues.forget_replaced(*one) for one in replaced))
        inputs = [name for one in done for name in (one.job.image.name, one.job.mask.name)]
        await self._unlink(*useless, *inputs)
        if done:
            reach(Fault.INPUTS_UNLINKED)
        await asyncio.gather(
            *(
                self._queues.cleaned(one.claim, f"{one.segment.name} {one.job.request_id}")
                for one in done
            )
        )
        for one in done:
            reach(Fault.CLEANED)
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
