"""The pipeline of a batch: claim, load, compute, store, commit.

Each batch has a coroutine of its own, `BatchPipeline._process`. Each stage takes one batch after
the other, in the order of their claims. So one batch is computed while the next one is loaded and
the last one is stored and committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final

from core.broker.connection import Backoff
from core.broker.queues import Queues
from core.broker.redis_errors import REDIS_ERRORS
from core.claims import Claim, Ending
from core.config import Settings
from core.contract import expiry
from core.errors import Expired, JobError, OutOfSharedMemory
from core.faults import Fault, fault_point
from core.flow.batches import Batch, BatchSource
from core.flow.delivery import Deliverer
from core.flow.device import MOST_ON_DEVICE, Device
from core.flow.device_hold import CRASHED, DeviceHold
from core.flow.failures import Failures
from core.flow.writability import ShmWritability
from core.identity import Identity
from core.pixels.copying import Copiers
from core.pixels.handover import Loaded, Network
from core.pixels.stages import Loader
from core.recovery.visibility import ShmVisibility
from core.telemetry import transitions

#: Batches in hand at once: one ahead, those on the device, one being stored, one being committed.
MOST_IN_HAND: Final = MOST_ON_DEVICE + 3

#: Why a superseded job is given back by a worker that could not unlink its inputs.
SUPERSEDED: Final = JobError("superseded", "a newer submission of its request is done")

#: Seconds in which finished results may still be delivered by a process that ends on an error.
DELIVERING_S: Final = 1.0


class BatchPipeline:
    """Takes batches from the queues and delivers their results until `stop` is set.

    It claims at most one batch ahead of those that the device has, so that an idle second worker
    finds the rest in the queues.
    """

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
        self._queues = queues
        self._network = network
        self._stop = stop
        self._loader = Loader(settings, lambda: network.staging, queues.clock.now)
        self.visibility = ShmVisibility(queues, stop, settings.wire_format, settings.uids)
        self._hold = DeviceHold(queues, stop)
        self._failures = Failures(settings, queues, self.visibility, self._hold)
        self._writability = ShmWritability(stop)
        self._deliver = Deliverer(
            settings, identity, queues, self._failures, self._writability, stop
        )
        self._source = BatchSource(
            queues,
            settings.batch_sizes,
            max_wait_ms=settings.batch_max_wait_ms,
            reconcile_interval_s=settings.heartbeat_interval_s,
        )
        self._readers = Copiers("load")
        self._shortage = Backoff()
        self.device = Device(network, settings.inference_timeout_s, infer_thread)
        self._in_hand = asyncio.Semaphore(MOST_IN_HAND)
        #: Taken by a batch from its claim until it is launched.
        self._ahead = asyncio.Semaphore(1)
        self._storing = asyncio.Lock()
        #: The coroutines of all batches in hand, and of those whose results are computed.
        self._batches: set[asyncio.Task[None]] = set()
        self._computed: set[asyncio.Task[None]] = set()
        #: The first error that ended a batch: this process cannot go on.
        self._error: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Claimed jobs that a stop or an error kept from being computed or stored.
        self._unstarted: list[Claim] = []

    async def run(self) -> None:
        """Run until a stop; returns when the batches in hand are delivered.

        Raises HungInference if the network does not return in time, DeviceFault if the device is
        broken; then `device.failed_at` has the jobs that it was given.
        """
        claiming = asyncio.create_task(self._claim_batches())
        await asyncio.wait({claiming, self._error}, return_when=asyncio.FIRST_COMPLETED)
        if claiming.done():
            claiming.result()
        while self._batches and not self._error.done():
            waiting = {*self._batches, self._error}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self._error.done():
            self._error.result()
        await self._deliver.wait_for_cleanup()

    async def stop_claiming(self) -> None:
        """Claim nothing from now on; returns once no claim is in flight."""
        await self._source.stop()

    async def release_unstarted(self) -> None:
        """Release the jobs that run() has claimed and not started."""
        fault_point(Fault.STOPPED)
        unknown: list[Claim] = []
        unstarted = self._unstarted + self._source.unstarted()
        with contextlib.suppress(*REDIS_ERRORS):  # without Redis, they are left to a reaper
            unknown = await self._queues.reconcile()
            if unstarted or unknown:
                await self._queues.enter(unstarted + unknown)  # their order is kept
        await self._queues.release(unstarted + unknown)
        fault_point(Fault.RELEASED)

    async def give_back_unfinished(self) -> None:
        """End claiming, and give back the unfinished jobs of a process that must end.

        Results that are computed already are delivered, if that takes less than DELIVERING_S. An
        attempt is added to the jobs that the device hung at. The jobs that it failed at get none,
        but go behind the others: if one of their pictures breaks the device, the others are done
        first. With at-least-once delivery the rest stays in the processing lists, for
        Recovery.give_back_own().
        """
        await self._source.stop()  # jobs given back must not be claimed here again
        if self._computed:
            await asyncio.wait(self._computed, timeout=DELIVERING_S)
        for claim in self.device.failed_at:
            await self._queues.retry(
                claim, counted=self.device.has_hung, delay_s=self._failures.delay_s(0)
            )
        if not self._queues.keeps_payload:
            await self._queues.release(self._queues.claims_in_flight())

    def request_reconcile(self) -> None:
        """Compare the processing lists with the known claims before the next claim."""
        self._source.request_reconcile()

    # -- batches ------------------------------------------------------------------------------

    async def _claim_batches(self) -> None:
        while True:
            await self._in_hand.acquire()
            await self._ahead.acquire()
            await self._writability.wait()
            await self.visibility.wait()
            await self._hold.wait()
            is_careful = self.visibility.is_blind or self._hold.is_active
            batch = await self._source.next_batch(1 if is_careful else None)
            if batch is None or self._error.done():
                return
            if batch.superseded:
                await self._supersede(batch)
                self._ahead.release()
                self._in_hand.release()
                continue
            if batch.attempts:
                await self._wait_for_others(batch)
            processing = asyncio.create_task(self._process(batch))
            self._batches.add(processing)
            processing.add_done_callback(self._ended)
            if batch.attempts:
                await asyncio.wait({processing})

    async def _wait_for_others(self, batch: Batch) -> None:
        """Wait until no other batch is in hand, since this batch may kill the process.

        If the process dies during the wait, this batch is not to blame.
        """
        self._queues.mark_work(batch.claims, working=False)
        while self._batches:
            await asyncio.wait(self._batches)
        self._queues.mark_work(batch.claims, working=True)

    async def _supersede(self, batch: Batch) -> None:
        for claim in batch.claims:
            if self.visibility.leaves(claim):
                await self._failures.leave(claim, SUPERSEDED)
            elif await self._queues.supersede(claim) is Ending.SUPERSEDED:
                await self._failures.drop_superseded(claim)

    async def _process(self, batch: Batch) -> None:
        """Load, compute, store and commit one batch."""
        claimed_at = time.monotonic()
        jobs = await self._load(batch)
        fault_point(Fault.LOADED)
        if not jobs:
            self._ahead.release()
            return
        load_s = time.monotonic() - claimed_at
        if self._hold.is_active:
            self._hold.tried()
        claims = [claim for claim, _ in jobs]
        has_to_wait = self.device.is_busy
        if has_to_wait:  # if this process dies meanwhile, these jobs are not to blame
            self._queues.mark_work(claims, working=False)
        async with self.device.slots:
            async with self.device.launching:
                self._ahead.release()
                if self._stop.is_set() or self.device.failed_at or self._error.done():
                    self._unstarted += claims
                    return
                jobs, expired = self._without_expired(jobs)
                if has_to_wait:
                    self._queues.mark_work([claim for claim, _ in jobs], working=True)
                launched = await self.device.launch(jobs) if jobs else None
            computed = await self.device.collect(launched) if launched else None
        if computed:
            pictures, infer_s = computed
            fault_point(Fault.INFERRED)
            if coroutine := asyncio.current_task():
                self._computed.add(coroutine)
            async with self._storing:
                store_began_at = time.monotonic()
                batch_jobs = [loaded.job for _, loaded in jobs]
                results = await self._deliver.store(jobs, pictures, batch.attempts)
            self._unstarted += results.unstored
            del jobs, launched, computed, pictures  # releases their pixels
            await self._deliver.commit(results)
            now = time.monotonic()
            transitions.batch_done(
                batch.kind, batch_jobs, results.delivered, load_s=load_s, infer_s=infer_s,
                store_s=now - store_began_at, total_s=now - claimed_at,
            )  # fmt: skip
        for claim, error in expired:
            await self._failures.add(claim, batch.attempts, error)

    def _without_expired(
        self, jobs: Sequence[tuple[Claim, Loaded]]
    ) -> tuple[list[tuple[Claim, Loaded]], list[tuple[Claim, Expired]]]:
        """The jobs that may be begun, and those that have expired while they waited."""
        now = self._queues.clock.now()
        errors = [expiry(loaded.job, now) for _, loaded in jobs]
        return (
            [job for job, error in zip(jobs, errors, strict=True) if error is None],
            [(job[0], error) for job, error in zip(jobs, errors, strict=True) if error],
        )

    def _ended(self, processing: asyncio.Task[None]) -> None:
        self._batches.discard(processing)
        self._computed.discard(processing)
        self._in_hand.release()
        error = None if processing.cancelled() else processing.exception()
        if error is not None and not self._error.done():
            self._error.set_exception(error)

    # -- loading ------------------------------------------------------------------------------

    async def _load(self, batch: Batch) -> list[tuple[Claim, Loaded]]:
        """The jobs of a batch that can be computed; the others are retried later, or dead."""
        jobs, shortages = await self._read(batch, batch.claims)
        if jobs or not shortages:
            self._shortage.reset()
        if shortages:
            # Memory may be freed soon. While no job at all finds room, the waits grow.
            await self._shortage.wait(unless=self._stop)
            more, shortages = await self._read(batch, [claim for claim, _ in shortages])
            jobs += more
        for shortage in shortages:
            await self._failures.postpone(*shortage)
        return jobs

    async def _read(
        self, batch: Batch, claims: Sequence[Claim]
    ) -> tuple[list[tuple[Claim, Loaded]], list[tuple[Claim, OutOfSharedMemory]]]:
        """Read jobs of a batch; also those for whose results there is no room."""
        jobs: list[tuple[Claim, Loaded]] = []
        shortages: list[tuple[Claim, OutOfSharedMemory]] = []
        outcomes: list[Loaded | Exception]
        if batch.attempts >= self._settings.max_attempts:
            # Failures gives the job up or, if the device is at fault, holds it.
            outcomes = [JobError(CRASHED, "every worker that tried this job died on it")]
        else:
            asks_device = self._network.staging is not None  # the device may hang
            reading = self._readers.each(
                self._loader, [(claim,) for claim in claims], waits_for_device=asks_device
            )
            outcomes = await (self.device.in_time(reading, claims) if asks_device else reading)
        self.visibility.note(claims, outcomes)
        for claim, outcome in zip(claims, outcomes, strict=True):
            if isinstance(outcome, OutOfSharedMemory):
                shortages.append((claim, outcome))
            elif isinstance(outcome, Exception):
                await self._failures.add(claim, batch.attempts, outcome)
            else:
                transitions.taken(claim, outcome.job)
                jobs.append((claim, outcome))
        return jobs, shortages
