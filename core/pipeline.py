"""The three loops that a batch passes through: claimed and loaded, inferred, stored.

Each loop has a thread for its stage and hands batches on, so that while one batch is computed the
next one is read and the last one written. `room` is the promise that no more than one batch is
claimed ahead of the one being computed, so that an idle second worker finds the rest in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np

from core import shm, transitions
from core.batches import Batch, BatchSource
from core.config import Settings
from core.connection import REDIS_ERRORS, Backoff
from core.contract import Segment, request_of, result_fields, result_name_start
from core.errors import HungInference, JobError, OutOfSharedMemory, TransientFailure
from core.faults import Fault, reach
from core.handover import Filled, Loaded, Network, Restored, Staging, is_pending
from core.identity import Identity
from core.queues import Claim, Queues
from core.stages import Finisher, Loader
from core.telemetry import tracing, watch

#: Jobs that may wait for another try at once. Past it claiming pauses: what makes so many fail
#: (a wrong IPC namespace, say) is not mended by trying the rest.
MAX_DELAYED: Final = 256

#: A job whose result is in shared memory and not committed.
Stored = tuple[Claim, Loaded, Segment]

Given = TypeVar("Given")
Outcome = TypeVar("Outcome")


@dataclass(slots=True)
class Work:
    """A batch on its way through the stages. Times are time.monotonic()."""

    batch: Batch
    jobs: list[tuple[Claim, Loaded]]
    claimed_at: float
    load_s: float = 0.0
    infer_s: float = 0.0
    pictures: Sequence[Filled] = field(default_factory=list)


class BatchPipeline:
    """Takes batches from the queues and delivers their results until `stop` is set."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        queues: Queues,
        network: Network,
        infer_thread: Executor,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._queues = queues
        self._network = network
        self._stop = stop
        self._uids = settings.uids
        self._loader = Loader(settings, self._staging)
        self._finisher = Finisher(settings)
        self._source = BatchSource(settings, queues)
        self._room = asyncio.Semaphore(1)
        self._to_infer: asyncio.Queue[Work | None] = asyncio.Queue(1)
        self._to_store: asyncio.Queue[Work | None] = asyncio.Queue(1)
        self._delayed: set[asyncio.Task[None]] = set()
        self._unstarted: list[Claim] = []
        self._counter = itertools.count()
        self._load_thread = ThreadPoolExecutor(1, "load")
        self._infer_thread = infer_thread
        self._store_thread = ThreadPoolExecutor(1, "store")

    async def run(self) -> None:
        """Work; returns when the batch in hand at the stop is delivered.

        Raises HungInference if the network does not return in time, DeviceFault if it never will.
        """
        await asyncio.gather(self._claim_loop(), self._infer_loop(), self._store_loop())

    async def stop_claiming(self) -> None:
        """End the wait for a batch. To be repeated until run() returns: a wait may just begin."""
        await self._source.stop()

    async def put_back(self) -> None:
        """Return what run() has claimed and not started to the queues."""
        if self._delayed:
            await asyncio.wait(self._delayed)
        reach(Fault.STOPPED)
        unheard: list[Claim] = []
        with contextlib.suppress(*REDIS_ERRORS):  # without Redis, they are left to a reaper
            unheard = await self._queues.reconcile()
        await self._queues.release(self._unstarted + self._source.unstarted() + unheard)
        reach(Fault.RELEASED)

    def suspect(self) -> None:
        """Have the processing lists compared with what is in hand before the next claim."""
        self._source.suspect()

    # -- the three loops ----------------------------------------------------------------------

    async def _claim_loop(self) -> None:
        while True:
            await self._room.acquire()
            while len(self._delayed) >= MAX_DELAYED:
                watch.turned()
                await asyncio.wait(self._delayed, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            batch = await self._source.next_batch()
            if batch is None:
                break
            if batch.attempts:
                await self._to_infer.join()  # if it kills this process, then nothing else with it
            work = await self._load(batch)
            reach(Fault.LOADED)
            if not work.jobs:
                self._room.release()
                continue
            await self._to_infer.put(work)
            if batch.attempts:
                await self._to_infer.join()
        await self._to_infer.put(None)

    async def _infer_loop(self) -> None:
        while (work := await self._to_infer.get()) is not None:
            self._room.release()
            if self._stop.is_set():
                self._unstarted += [claim for claim, _ in work.jobs]
                self._to_infer.task_done()
                continue
            await self._infer(work)
            reach(Fault.INFERRED)
            await self._to_store.put(work)
        await self._to_store.put(None)

    async def _store_loop(self) -> None:
        while (work := await self._to_store.get()) is not None:
            began = time.monotonic()
            await self._collect(work)
            delivered = await self._deliver(work)
            self._to_infer.task_done()  # only now is a batch done with
            now = time.monotonic()
            transitions.batch_done(
                work.batch.kind, [loaded.job for _, loaded in work.jobs], delivered,
                load_s=work.load_s, infer_s=work.infer_s, store_s=now - began,
                total_s=now - work.claimed_at,
            )  # fmt: skip

    # -- one batch, one job -------------------------------------------------------------------

    async def _load(self, batch: Batch) -> Work:
        work = Work(batch, [], time.monotonic())
        loaded: list[Loaded | Exception]
        if batch.attempts >= self._settings.max_attempts:
            loaded = [JobError("crashed", "every worker that tried this job died on it")]
        else:
            if self._staging() is None:
                loop = asyncio.get_running_loop()
                loaded = await loop.run_in_executor(self._load_thread, self._load_all, batch.claims)
            else:  # which asks something of a device, and that may hang
                loaded = await self._in_time(self._load_thread, self._load_all, batch.claims)
        for claim, outcome in zip(batch.claims, loaded, strict=True):
            if isinstance(outcome, Exception):
                await self._failed(claim, batch.attempts, outcome)
            else:
                transitions.taken(claim, outcome.job)
                work.jobs.append((claim, outcome))
        work.load_s = time.monotonic() - work.claimed_at
        return work

    def _staging(self) -> Staging | None:
        staging: Staging | None = getattr(self._network, "staging", None)
        return staging

    def _load_all(self, claims: Sequence[Claim]) -> list[Loaded | Exception]:
        return [_outcome(self._loader, claim) for claim in claims]

    async def _infer(self, work: Work) -> None:
        began = time.monotonic()
        watch.batch_started()
        batch = [loaded for _, loaded in work.jobs]
        work.pictures = await self._in_time(self._infer_thread, self._network, batch)
        work.infer_s = time.monotonic() - began

    async def _collect(self, work: Work) -> None:
        """Wait for what a device still has of a batch."""
        if any(is_pending(picture) for picture in work.pictures):
            collect: Callable[[Sequence[Filled]], list[Filled]] = self._network.collect  # type: ignore[attr-defined]
            work.pictures = await self._in_time(self._store_thread, collect, work.pictures)

    async def _in_time(
        self, thread: Executor, act: Callable[[Sequence[Given]], Outcome], batch: Sequence[Given]
    ) -> Outcome:
        """What a stage makes of a batch; raises HungInference if its device doesn't come back."""
        began = time.monotonic()
        doing = asyncio.get_running_loop().run_in_executor(thread, act, batch)
        timeout_s = self._settings.inference_timeout_s
        while not doing.done():
            # A network that works step by step is slow, not hung, for as long as it makes some.
            progressed_at = max(began, float(getattr(self._network, "progressed_at", began)))
            left_s = timeout_s - (time.monotonic() - progressed_at)
            if left_s > 0:
                await asyncio.wait({doing}, timeout=left_s)
                continue
            raise HungInference(
                f"a batch of {len(batch)} is not done after "
                f"INFERENCE_TIMEOUT_S={timeout_s:g}: the process ends, "
                f"the batch stays in the processing list of {self._identity.worker}"
            )
        return doing.result()

    async def _deliver(self, work: Work) -> int:
        """Store and commit a batch; how many of its jobs were delivered by this worker."""
        loop = asyncio.get_running_loop()
        delivered, backoff = 0, Backoff()
        left = [(*job, picture) for job, picture in zip(work.jobs, work.pictures, strict=True)]
        while left:
            outcomes = await loop.run_in_executor(self._store_thread, self._store_all, left)
            stored: list[Stored] = []
            waiting = []
            for (claim, loaded, picture), outcome in zip(left, outcomes, strict=True):
                if isinstance(outcome, Segment):
                    stored.append((claim, loaded, outcome))
                elif isinstance(outcome, OutOfSharedMemory):
                    transitions.waits(loaded.job, outcome)
                    waiting.append((claim, loaded, picture))
                else:
                    await self._failed(claim, work.batch.attempts, outcome)
            # What is stored doesn't wait with the rest: its consumer may be who makes room.
            delivered += await self._commit_all(stored)
            left = waiting
            if left and self._stop.is_set():
                self._unstarted += [claim for claim, _, _ in left]
                break
            if left:
                await backoff.wait()
        return delivered

    def _store_all(self, jobs: Sequence[tuple[Claim, Loaded, Filled]]) -> list[Segment | Exception]:
        return [_outcome(self._store, *job) for job in jobs]

    def _store(self, claim: Claim, loaded: Loaded, picture: Filled) -> Segment:
        if isinstance(picture, TransientFailure):
            raise picture
        assert isinstance(picture, np.ndarray | Restored), "it was not collected"
        start = result_name_start(self._settings, self._identity.worker, claim.payload)
        name = f"{start}{next(self._counter)}"
        result = self._finisher(loaded, picture)
        shm.write(name, result, self._settings.shm_file_mode, loaded.owner)
        reach(Fault.SEGMENT_WRITTEN)
        watch.previews.keep(loaded.job, lambda: self._finisher.before(loaded), result)
        return Segment(name, result.shape, np.dtype(np.uint8))

    async def _commit_all(self, stored: Sequence[Stored]) -> int:
        """Commit jobs and clean up after them; how many were still this worker's.

        Together: their commands go to Redis in one go, and their segments in one.
        """
        outcomes = await asyncio.gather(*(self._commit(*one) for one in stored))
        if stored:
            reach(Fault.COMMITTED)
        replaced, useless, done = [], [], []
        for (claim, loaded, segment), (owned, old) in zip(stored, outcomes, strict=True):
            if owned:
                done.append((claim, loaded.job, segment))
                replaced += [(loaded.job.request_id, old)] * bool(old)
            else:
                transitions.lost(claim, loaded.job)
                useless.append(segment.name)
        if replaced:
            await self._unlink(*(name for _, name in replaced))
            reach(Fault.REPLACED_UNLINKED)
            await asyncio.gather(*(self._queues.forget_replaced(*one) for one in replaced))
        inputs = [name for _, job, _ in done for name in (job.image.name, job.mask.name)]
        await self._unlink(*useless, *inputs)
        if done:
            reach(Fault.INPUTS_UNLINKED)
        await asyncio.gather(*(self._queues.cleaned(claim) for claim, _, _ in done))
        for _, job, segment in done:
            reach(Fault.CLEANED)
            transitions.done(job, segment.name)
        return len(done)

    async def _commit(self, claim: Claim, loaded: Loaded, segment: Segment) -> tuple[bool, str]:
        job = loaded.job
        fields = result_fields(job, segment, claim.kind, self._identity.worker)
        fields |= tracing.done(claim.payload, loaded.began_at, {"inpainting.queue": claim.kind})
        return await self._queues.commit(claim, job.request_id, segment.name, fields)

    async def _unlink(self, *names: str) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._store_thread, shm.unlink_all, names, self._uids)

    async def _failed(self, claim: Claim, attempts: int, error: Exception) -> None:
        """Have a job tried again later, or give it up."""
        if not isinstance(error, JobError):
            transitions.failed_unexpectedly(claim, error)
            error = TransientFailure("internal_error", f"{type(error).__name__}: {error}")
        allowed = self._settings.max_attempts
        tried = min(attempts + 1, allowed)
        if isinstance(error, TransientFailure) and tried < allowed:
            delay_s = self._settings.retry_delay_s * 2**attempts
            transitions.failed(claim, error, tried, allowed, delay_s)
            task = asyncio.create_task(self._retry_after(claim, delay_s))
            self._delayed.add(task)
            task.add_done_callback(self._delayed.discard)
        else:
            reach(Fault.FAILING)
            if await self._queues.fail(claim, error, tried, request_of(claim.payload)):
                transitions.failed(claim, error, tried, allowed, None)
            reach(Fault.FAILED)

    async def _retry_after(self, claim: Claim, delay_s: float) -> None:
        """Put a job back after a delay, which a stop cuts short."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay_s)
        reach(Fault.DELAYED)
        await self._queues.retry(claim)
        reach(Fault.RETRIED)


def _outcome(act: Callable[..., Outcome], *arguments: object) -> Outcome | Exception:
    """What a call returns or raises, so that one job's error doesn't touch its batch mates."""
    try:
        return act(*arguments)
    except Exception as error:
        return error
