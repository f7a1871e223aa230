"""The pipeline of a batch, in four loops: claim and load, infer, store, commit.

Each loop passes batches to the next one and has threads for its stage. So while one batch is
computed, the next one is read and the previous one is written and committed. The semaphore `_room`
ensures that at most one batch is claimed ahead of the one being computed, so that an idle second
worker finds the rest in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from core.broker.connection import Backoff
from core.broker.queues import Queues
from core.broker.redis_errors import REDIS_ERRORS
from core.claims import Claim, Outcome
from core.config import Settings
from core.contract import Job
from core.errors import DeviceFault, HungInference, JobError, OutOfSharedMemory
from core.faults import Fault, fault_point
from core.flow.batches import Batch, BatchSource
from core.flow.delivery import Deliverer, Stored
from core.flow.device_hold import CRASHED, DeviceHold
from core.flow.failures import Failures
from core.identity import Identity
from core.pixels.copying import Copiers
from core.pixels.handover import Filled, Loaded, Network, is_pending
from core.pixels.stages import Loader
from core.recovery.visibility import ShmVisibility
from core.telemetry import transitions, watch

Result = TypeVar("Result")


@dataclass(slots=True)
class Work:
    """A batch on its way through the stages. Times are time.monotonic()."""

    batch: Batch
    jobs: list[tuple[Claim, Loaded]]
    claimed_at: float
    load_s: float = 0.0
    infer_s: float = 0.0
    pictures: Sequence[Filled] = field(default_factory=list)
    store_began_at: float = 0.0
    handled: list[Job] = field(default_factory=list)
    delivered: int = 0
    #: Whether its jobs are marked in Redis as worked on.
    is_marked: bool = True


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
        self._loader = Loader(settings, lambda: network.staging)
        self.visibility = ShmVisibility(settings, queues, stop)
        self._hold = DeviceHold(queues, stop)
        self._failures = Failures(settings, queues, self.visibility, self._hold)
        self._deliver = Deliverer(settings, identity, queues, self._failures, stop)
        self._source = BatchSource(settings, queues)
        self._room = asyncio.Semaphore(1)
        self._to_infer: asyncio.Queue[Work | None] = asyncio.Queue(1)
        self._to_store: asyncio.Queue[Work | None] = asyncio.Queue(1)
        #: Parts of a batch's stored results; an empty part marks the batch's end.
        self._to_commit: asyncio.Queue[tuple[Work, Sequence[Stored]] | None] = asyncio.Queue(1)
        self._unstarted: list[Claim] = []
        self._shortage = Backoff()
        self._readers = Copiers("load")
        self._infer_thread = infer_thread
        self._is_computing = False
        #: The jobs that the device had when it failed or hung.
        self.failed_at: list[Claim] = []
        self.has_hung = False

    async def run(self) -> None:
        """Run until a stop; returns when the batch in hand is delivered.

        Raises HungInference if the network does not return in time, DeviceFault if the device is
        broken; then `failed_at` has the jobs that it was given.
        """
        await asyncio.gather(
            self._claim_loop(), self._infer_loop(), self._store_loop(), self._commit_loop()
        )

    async def stop_claiming(self) -> None:
        """Claim nothing from now on; returns once no claim is in flight."""
        await self._source.stop()

    async def put_back(self) -> None:
        """Return the jobs that run() has claimed and not started to their queues."""
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
        """End claiming, and put back the unfinished jobs of a process that must end.

        An attempt is added to the jobs that the device hung at. The jobs that it failed at get
        none, but go behind the others: if one of their pictures breaks the device, the others are
        done first. With at-least-once delivery the rest stays in the processing lists, for
        Recovery.give_back_own().
        """
        await self._source.stop()  # jobs given back must not be claimed here again
        for claim in self.failed_at:
            delay_s = min(self._settings.retry_delay_s, self._settings.retry_delay_max_s)
            await self._queues.retry(claim, counted=self.has_hung, delay_s=delay_s)
        if not self._queues.fenced:
            await self._queues.release(self._queues.held())

    def request_reconcile(self) -> None:
        """Compare the processing lists with the known claims before the next claim."""
        self._source.request_reconcile()

    # -- the four loops -----------------------------------------------------------------------

    async def _claim_loop(self) -> None:
        while True:
            await self._room.acquire()
            await self.visibility.wait()
            await self._hold.wait()
            is_careful = self.visibility.is_blind or self._hold.is_active
            batch = await self._source.next_batch(1 if is_careful else None)
            if batch is None:
                break
            if batch.superseded:
                await self._supersede(batch)
                self._room.release()
                continue
            if batch.attempts:
                await self._let_others_finish(batch)
            work = await self._load(batch)
            fault_point(Fault.LOADED)
            if not work.jobs:
                self._room.release()
                continue
            if self._hold.is_active:
                self._hold.tried()
            if self._is_computing:  # they only wait: if this process dies, they are not to blame
                self._queues.mark_work([claim for claim, _ in work.jobs], working=False)
                work.is_marked = False
            await self._to_infer.put(work)
            if batch.attempts:
                await self._to_infer.join()
        await self._to_infer.put(None)

    async def _let_others_finish(self, batch: Batch) -> None:
        """Wait until no other batch is in hand, since this batch may kill the process.

        If the process dies during the wait, this batch is not to blame.
        """
        self._queues.mark_work(batch.claims, working=False)
        await self._to_infer.join()
        self._queues.mark_work(batch.claims, working=True)

    async def _infer_loop(self) -> None:
        while (work := await self._to_infer.get()) is not None:
            self._room.release()
            if self._stop.is_set():
                self._unstarted += [claim for claim, _ in work.jobs]
                self._to_infer.task_done()
                continue
            if not work.is_marked:
                self._queues.mark_work([claim for claim, _ in work.jobs], working=True)
            self._is_computing = True
            await self._infer(work)
            self._is_computing = False
            fault_point(Fault.INFERRED)
            await self._to_store.put(work)
        await self._to_store.put(None)

    async def _store_loop(self) -> None:
        while (work := await self._to_store.get()) is not None:
            work.store_began_at = time.monotonic()
            await self._collect(work)
            self._unstarted += await self._deliver.store(
                work.jobs, work.pictures, work.batch.attempts, partial(self._hand_on, work)
            )
            work.handled = [loaded.job for _, loaded in work.jobs]
            work.jobs, work.pictures = [], ()  # releases their pixels
            await self._hand_on(work, ())
        await self._to_commit.put(None)

    async def _hand_on(self, work: Work, stored: Sequence[Stored]) -> None:
        await self._to_commit.put((work, stored))

    async def _commit_loop(self) -> None:
        while (part := await self._to_commit.get()) is not None:
            work, stored = part
            if stored:
                work.delivered += await self._deliver.commit(stored)
                continue
            self._to_infer.task_done()  # the batch is finished
            now = time.monotonic()
            transitions.batch_done(
                work.batch.kind,
                work.handled,
                work.delivered,
                load_s=work.load_s,
                infer_s=work.infer_s,
                store_s=now - work.store_began_at,
                total_s=now - work.claimed_at,
            )
        await self._deliver.wait_for_cleanup()

    # -- one batch, one job -------------------------------------------------------------------

    async def _load(self, batch: Batch) -> Work:
        work = Work(batch, [], time.monotonic())
        shortages = await self._load_into(work, batch.claims)
        if work.jobs or not shortages:
            self._shortage.reset()
        if shortages:
            # Memory may be freed soon. While no job at all finds room, the waits grow.
            await self._shortage.wait(unless=self._stop)
            shortages = await self._load_into(work, [claim for claim, _ in shortages])
        for shortage in shortages:
            await self._failures.postpone(*shortage)
        work.load_s = time.monotonic() - work.claimed_at
        return work

    async def _load_into(
        self, work: Work, claims: Sequence[Claim]
    ) -> list[tuple[Claim, OutOfSharedMemory]]:
        """Load jobs of a batch; returns those whose results would find no room."""
        batch = work.batch
        shortages: list[tuple[Claim, OutOfSharedMemory]] = []
        loaded: list[Loaded | Exception]
        if batch.attempts >= self._settings.max_attempts:
            # If the device is at fault, the job is held instead of given up.
            loaded = [JobError(CRASHED, "every worker that tried this job died on it")]
        else:
            asks_device = self._network.staging is not None  # the device may hang
            loading = self._readers.each(
                self._loader, [(claim,) for claim in claims], waits_for_device=asks_device
            )
            with self._at(claims):
                loaded = await (self._in_time(loading, len(claims)) if asks_device else loading)
        self.visibility.note(claims, loaded)
        for claim, outcome in zip(claims, loaded, strict=True):
            if isinstance(outcome, OutOfSharedMemory):
                shortages.append((claim, outcome))
            elif isinstance(outcome, Exception):
                await self._failures.add(claim, batch.attempts, outcome)
            else:
                transitions.taken(claim, outcome.job)
                work.jobs.append((claim, outcome))
        return shortages

    async def _infer(self, work: Work) -> None:
        began = time.monotonic()
        watch.batch_started()
        batch = [loaded for _, loaded in work.jobs]
        loop = asyncio.get_running_loop()
        inferring = loop.run_in_executor(self._infer_thread, self._network, batch)
        with self._at([claim for claim, _ in work.jobs]):
            work.pictures = await self._in_time(inferring, len(batch))
        work.infer_s = time.monotonic() - began

    async def _collect(self, work: Work) -> None:
        """Wait for the pictures of a batch that are still on the device."""
        if any(is_pending(picture) for picture in work.pictures):
            loop = asyncio.get_running_loop()
            collecting = loop.run_in_executor(
                self._deliver.copiers.threads, self._network.collect, work.pictures
            )
            with self._at([claim for claim, _ in work.jobs]):
                work.pictures = await self._in_time(collecting, len(work.pictures))

    @contextlib.contextmanager
    def _at(self, claims: Sequence[Claim]) -> Iterator[None]:
        """If the device fails or hangs meanwhile, note at which jobs."""
        try:
            yield
        except (DeviceFault, HungInference) as error:
            self.has_hung = isinstance(error, HungInference)
            self.failed_at = list(claims)
            raise

    async def _supersede(self, batch: Batch) -> None:
        for claim in batch.claims:
            if await self._queues.supersede(claim) is Outcome.SUPERSEDED:
                await self._failures.drop_superseded(claim)

    async def _in_time(self, doing: Awaitable[Result], count: int) -> Result:
        """Wait for a device's result for a batch of `count`; raises HungInference on a timeout.

        The call itself goes on; only the wait ends.
        """
        began = time.monotonic()
        result = asyncio.ensure_future(doing)
        timeout_s = self._settings.inference_timeout_s
        while not result.done():
            progressed_at = max(began, self._network.progressed_at)
            remaining_s = timeout_s - (time.monotonic() - progressed_at)
            if remaining_s > 0:
                await asyncio.wait({result}, timeout=remaining_s)
                continue
            raise HungInference(
                f"a batch of {count} is not done after "
                f"INFERENCE_TIMEOUT_S={timeout_s:g}: the process ends, the batch is tried again"
            )
        return result.result()
