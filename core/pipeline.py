"""The three loops that a batch passes through: claimed and loaded, inferred, stored.

Each loop has a thread for its stage and hands batches on, so that while one batch is computed the
next one is read and the last one written. `room` is the promise that no more than one batch is
claimed ahead of the one being computed, so that an idle second worker finds the rest in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from core import shm
from core.batches import Batch, BatchSource
from core.config import Settings
from core.connection import Backoff
from core.contract import Segment, request_of, result_fields, result_name_start
from core.errors import HungInference, JobError, OutOfSharedMemory, TransientFailure
from core.faults import Fault, reach
from core.identity import Identity
from core.queues import Claim, Queues
from core.stages import Finisher, Loaded, Loader, Network, Picture
from core.telemetry import about, tracing, watch

log = logging.getLogger(__name__)

#: Jobs that may wait for another try at once. Past it claiming pauses: what makes so many fail
#: (a wrong IPC namespace, say) is not mended by trying the rest.
MAX_DELAYED: Final = 256


@dataclass(slots=True)
class Work:
    """A batch on its way through the stages. Times are time.monotonic()."""

    batch: Batch
    jobs: list[tuple[Claim, Loaded]]
    claimed_at: float
    load_s: float = 0.0
    infer_s: float = 0.0
    pictures: list[Picture | TransientFailure] = field(default_factory=list)


class BatchPipeline:
    """Takes batches from the queues and delivers their results until `stop` is set."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        queues: Queues,
        network: Network,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._queues = queues
        self._network = network
        self._stop = stop
        self._uids = settings.uids
        self._loader = Loader(settings)
        self._finisher = Finisher(settings)
        self._source = BatchSource(settings, queues)
        self._room = asyncio.Semaphore(1)
        self._to_infer: asyncio.Queue[Work | None] = asyncio.Queue(1)
        self._to_store: asyncio.Queue[Work | None] = asyncio.Queue(1)
        self._delayed: set[asyncio.Task[None]] = set()
        self._unstarted: list[Claim] = []
        self._counter = itertools.count()
        self._load_thread = ThreadPoolExecutor(1, "load")
        self._infer_thread = ThreadPoolExecutor(1, "infer")
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
        unheard = await self._queues.link.insist(self._queues.reconcile)
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
            delivered = await asyncio.gather(
                *(
                    self._deliver(claim, work.batch.attempts, loaded, picture)
                    for (claim, loaded), picture in zip(work.jobs, work.pictures, strict=True)
                )
            )
            self._to_infer.task_done()  # only now is a batch done with
            now = time.monotonic()
            requests = [loaded.job.request_id for _, loaded in work.jobs]
            total_s, store_s = now - work.claimed_at, now - began
            log.info(
                "batch of %d %s: %d delivered, total %.3f s, inference %.3f s, "
                "post-processing %.3f s: %s",
                len(work.batch.claims), work.batch.kind, sum(delivered), total_s, work.infer_s,
                store_s, ", ".join(requests), extra=about(*requests),
            )  # fmt: skip
            watch.batch_done(
                work.batch.kind, requests, sum(delivered),
                load_s=work.load_s, infer_s=work.infer_s, store_s=store_s, total_s=total_s,
            )  # fmt: skip

    # -- one batch, one job -------------------------------------------------------------------

    async def _load(self, batch: Batch) -> Work:
        work = Work(batch, [], time.monotonic())
        loop = asyncio.get_running_loop()
        for claim in batch.claims:
            try:
                if batch.attempts >= self._settings.max_attempts:
                    raise JobError("crashed", "every worker that tried this job died on it")
                loaded = await loop.run_in_executor(self._load_thread, self._loader, claim)
            except Exception as error:
                await self._failed(claim, batch.attempts, error)
            else:
                request_id = loaded.job.request_id
                log.debug(
                    "request %s taken from the %s queue",
                    request_id, claim.kind, extra=about(request_id),
                )  # fmt: skip
                work.jobs.append((claim, loaded))
        work.load_s = time.monotonic() - work.claimed_at
        return work

    async def _infer(self, work: Work) -> None:
        began = time.monotonic()
        watch.batch_started()
        inference = asyncio.get_running_loop().run_in_executor(
            self._infer_thread, self._network, [loaded for _, loaded in work.jobs]
        )
        done, _ = await asyncio.wait({inference}, timeout=self._settings.inference_timeout_s)
        if not done:
            raise HungInference(
                f"a batch of {len(work.jobs)} is not done after "
                f"INFERENCE_TIMEOUT_S={self._settings.inference_timeout_s:g}: the process ends, "
                f"the batch stays in the processing list of {self._identity.worker}"
            )
        work.pictures = inference.result()
        work.infer_s = time.monotonic() - began

    async def _deliver(
        self, claim: Claim, attempts: int, loaded: Loaded, picture: Picture | TransientFailure
    ) -> bool:
        """Store and commit one job; False if it failed or is no longer this worker's."""
        job = loaded.job
        try:
            if isinstance(picture, TransientFailure):
                raise picture
            segment = await self._store(claim, loaded, picture)
        except Exception as error:
            await self._failed(claim, attempts, error)
            return False
        if segment is None:
            self._unstarted.append(claim)
            return False
        reach(Fault.SEGMENT_WRITTEN)
        fields = result_fields(job, segment, claim.kind, self._identity.worker)
        fields |= tracing.done(claim.payload, loaded.began_at, {"inpainting.queue": claim.kind})
        owned, replaced = await self._queues.commit(claim, job.request_id, segment.name, fields)
        if not owned:
            watch.job_lost(claim.kind)
            log.warning(
                "request %s was taken over by another worker",
                job.request_id, extra=about(job.request_id),
            )  # fmt: skip
            await self._unlink(segment.name)
            return False
        reach(Fault.COMMITTED)
        if replaced:
            await self._unlink(replaced)
            reach(Fault.REPLACED_UNLINKED)
            await self._queues.forget_replaced(job.request_id, replaced)
        await self._unlink(job.image.name, job.mask.name)
        reach(Fault.INPUTS_UNLINKED)
        await self._queues.cleaned(claim)
        reach(Fault.CLEANED)
        log.debug("request %s done: %s", job.request_id, segment.name, extra=about(job.request_id))
        return True

    async def _store(self, claim: Claim, loaded: Loaded, picture: Picture) -> Segment | None:
        """The segment with the result; None if there was no room until the worker was stopped."""
        start = result_name_start(self._settings, self._identity.worker, claim.payload)
        name = f"{start}{next(self._counter)}"
        loop = asyncio.get_running_loop()
        backoff = Backoff()

        def finish_and_write() -> Segment:
            result = self._finisher(loaded, picture)
            shm.write(name, result, self._settings.shm_file_mode, loaded.owner)
            watch.previews.keep(loaded.job, lambda: self._finisher.before(loaded), result)
            return Segment(name, result.shape, np.dtype(np.uint8))

        while True:
            try:
                return await loop.run_in_executor(self._store_thread, finish_and_write)
            except OutOfSharedMemory as error:
                if self._stop.is_set():
                    return None
                request_id = loaded.job.request_id
                log.warning("request %s waits: %s", request_id, error, extra=about(request_id))
                await backoff.wait()

    async def _unlink(self, *names: str) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._store_thread, shm.unlink_all, names, self._uids)

    async def _failed(self, claim: Claim, attempts: int, error: Exception) -> None:
        """Have a job tried again later, or give it up."""
        request = request_of(claim.payload)
        name = f"request {request[0]}" if request else f"a message on the {claim.kind} queue"
        extra = about(request[0]) if request else None
        if not isinstance(error, JobError):
            log.error("%s failed unexpectedly", name, exc_info=error, extra=extra)
            error = TransientFailure("internal_error", f"{type(error).__name__}: {error}")
        allowed = self._settings.max_attempts
        tried = min(attempts + 1, allowed)
        tracing.failed(claim.payload, error.reason, str(error), tried)
        if isinstance(error, TransientFailure) and tried < allowed:
            delay_s = self._settings.retry_delay_s * 2**attempts
            log.warning(
                "%s failed and is tried again in %g s (try %d of %d): %s",
                name, delay_s, tried, allowed, error, extra=extra,
            )  # fmt: skip
            watch.job_failed(claim.kind, request, error.reason, str(error), tried, dead=False)
            task = asyncio.create_task(self._retry_after(claim, delay_s))
            self._delayed.add(task)
            task.add_done_callback(self._delayed.discard)
        else:
            reach(Fault.FAILING)
            if await self._queues.fail(claim, error, tried, request):
                log.error(
                    "%s is dead (%s, try %d): %s", name, error.reason, tried, error, extra=extra
                )
                watch.job_failed(claim.kind, request, error.reason, str(error), tried, dead=True)
            reach(Fault.FAILED)

    async def _retry_after(self, claim: Claim, delay_s: float) -> None:
        """Put a job back after a delay, which a stop cuts short."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay_s)
        reach(Fault.DELAYED)
        await self._queues.retry(claim)
        reach(Fault.RETRIED)
