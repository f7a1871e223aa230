"""The daemon: claims, stages and commits put together; signals; start and stop.

Three loops, each with a thread for its stage, hand batches on: while one batch is computed the
next one is read and the last one written. `room` is the promise that no more than one batch is
claimed ahead of the one being computed, so that an idle second worker finds the rest in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
from redis.exceptions import AuthenticationError, NoPermissionError

from core import shm
from core.batches import Batch, BatchSource
from core.config import Delivery, Settings
from core.connection import REDIS_ERRORS, Backoff
from core.contract import Segment, request_of, result_fields, result_name_start
from core.errors import (
    HungInference,
    JobError,
    OutOfSharedMemory,
    RedisUnsuitable,
    TransientFailure,
    WorkerError,
)
from core.heartbeat import Heartbeat
from core.identity import Identity, current_identity
from core.queues import Claim, Queues, open_queues
from core.recovery import Recovery
from core.stages import Finisher, Loaded, Loader, Network, Picture

log = logging.getLogger(__name__)

#: Jobs that may wait for another try at once. Past it claiming pauses: what makes so many fail
#: (a wrong IPC namespace, say) is not mended by trying the rest.
MAX_DELAYED: Final = 256

EXIT_CLEAN, EXIT_UNCLEAN = 0, 1


@dataclass(slots=True)
class Work:
    """A batch on its way through the stages. Times are time.monotonic()."""

    batch: Batch
    jobs: list[tuple[Claim, Loaded]]
    claimed_at: float
    infer_s: float = 0.0
    pictures: list[Picture | TransientFailure] = field(default_factory=list)


class Service:
    """One worker: one process, one event loop, three stage threads and a heartbeat."""

    def __init__(
        self, settings: Settings, identity: Identity, queues: Queues, network: Network
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._queues = queues
        self._network = network
        self._uids = frozenset((os.geteuid(), *settings.shm_allowed_uids))
        self._loader = Loader(settings, self._uids)
        self._finisher = Finisher(settings)
        self._source = BatchSource(settings, queues)
        self._recovery = Recovery(settings, identity, queues.link, self._uids)
        self._stop = asyncio.Event()
        self._room = asyncio.Semaphore(1)
        self._to_infer: asyncio.Queue[Work | None] = asyncio.Queue(1)
        self._to_store: asyncio.Queue[Work | None] = asyncio.Queue(1)
        self._delayed: set[asyncio.Task[None]] = set()
        self._unstarted: list[Claim] = []
        self._counter = itertools.count()
        self._load_thread = ThreadPoolExecutor(1, "load")
        self._infer_thread = ThreadPoolExecutor(1, "infer")
        self._store_thread = ThreadPoolExecutor(1, "store")

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit status.

        Raises RedisUnsuitable if the server cannot serve, HungInference if the network hangs.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        if not await self._start():
            return EXIT_CLEAN
        heartbeat = Heartbeat(
            self._settings,
            self._identity,
            on_revival=lambda: _soon(loop, self._source.suspect),
        )
        heartbeat.start()
        recovery = asyncio.create_task(self._recovery.run())
        try:
            return await self._serve()
        finally:
            recovery.cancel()
            # Also after an error: without a heartbeat others recover at once what is left.
            await asyncio.to_thread(heartbeat.stop)
            with contextlib.suppress(*REDIS_ERRORS):
                await self._queues.deregister()
            await self._queues.close()
            await self._recovery.close()

    async def _start(self) -> bool:
        """Check the server and register; False if a signal came first."""
        ready: asyncio.Future[Any] = asyncio.ensure_future(self._queues.link.insist(self._register))
        stop: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({ready, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            return False
        stop.cancel()
        await ready
        return True

    async def _register(self) -> None:
        try:
            await self._queues.check_server()
        except (AuthenticationError, NoPermissionError) as error:
            raise RedisUnsuitable(f"redis refuses this user: {error}") from error
        await self._queues.register()
        if self._settings.delivery is Delivery.AT_MOST_ONCE:
            log.warning("DELIVERY=at_most_once: a crash loses up to one batch")
        log.info(
            "worker %s takes jobs from %s and %s",
            self._identity.worker,
            self._settings.lama_inference_long_tasks_queue,
            self._settings.lama_inference_short_tasks_queue,
        )

    async def _serve(self) -> int:
        loops: asyncio.Future[Any] = asyncio.gather(
            self._claim_loop(), self._infer_loop(), self._store_loop()
        )
        stop: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({loops, stop}, return_when=asyncio.FIRST_COMPLETED)
        if loops.done():
            stop.cancel()
            loops.result()  # a loop only ends before the stop by an error
        grace_s = self._settings.shutdown_grace_s
        try:
            async with asyncio.timeout(grace_s):
                await self._finish(loops)
        except TimeoutError:
            log.error(
                "not stopped cleanly: SHUTDOWN_GRACE_S=%g is over; what was in hand stays in the "
                "processing lists of %s",
                grace_s, self._identity.worker,
            )  # fmt: skip
            return EXIT_UNCLEAN
        log.info("stopped")
        return EXIT_CLEAN

    async def _finish(self, loops: asyncio.Future[Any]) -> None:
        while not loops.done():
            await self._source.stop()
            await asyncio.wait({loops}, timeout=0.02)
        loops.result()
        if self._delayed:
            await asyncio.wait(self._delayed)
        await self._queues.release(self._unstarted + self._source.unstarted())

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._stop.is_set():
            log.error(
                "%s again: stopped at once, what was in hand stays in the processing lists", name
            )
            leave_now(128 + number)
        log.info("%s: no more claims, finishing the batch in hand", name)
        self._stop.set()

    # -- the three loops ----------------------------------------------------------------------

    async def _claim_loop(self) -> None:
        while True:
            await self._room.acquire()
            if len(self._delayed) >= MAX_DELAYED:
                await asyncio.wait(self._delayed, return_when=asyncio.FIRST_COMPLETED)
            batch = await self._source.next_batch()
            if batch is None:
                break
            if batch.attempts:
                await self._to_infer.join()  # if it kills this process, then nothing else with it
            work = await self._load(batch)
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
            log.info(
                "batch of %d %s: %d delivered, total %.3f s, inference %.3f s, "
                "post-processing %.3f s",
                len(work.batch.claims), work.batch.kind, sum(delivered),
                now - work.claimed_at, work.infer_s, now - began,
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
                log.debug("request %s taken from the %s queue", loaded.job.request_id, claim.kind)
                work.jobs.append((claim, loaded))
        return work

    async def _infer(self, work: Work) -> None:
        began = time.monotonic()
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
        fields = result_fields(job, segment, claim.kind, self._identity.worker)
        owned, replaced = await self._queues.commit(claim, job.request_id, segment.name, fields)
        if not owned:
            log.warning("request %s was taken over by another worker", job.request_id)
            await self._unlink(segment.name)
            return False
        if replaced:
            await self._unlink(replaced)
            await self._queues.forget_replaced(job.request_id, replaced)
        await self._unlink(job.image.name, job.mask.name)
        await self._queues.cleaned(claim)
        log.debug("request %s done: %s", job.request_id, segment.name)
        return True

    async def _store(self, claim: Claim, loaded: Loaded, picture: Picture) -> Segment | None:
        """The segment with the result; None if there was no room until the worker was stopped."""
        start = result_name_start(self._settings, self._identity.worker, claim.payload)
        name = f"{start}{next(self._counter)}"
        loop = asyncio.get_running_loop()
        backoff = Backoff()

        def finish_and_write() -> Segment:
            result = self._finisher(loaded, picture)
            shm.write(name, result, self._settings.shm_file_mode)
            return Segment(name, result.shape, np.dtype(np.uint8))

        while True:
            try:
                return await loop.run_in_executor(self._store_thread, finish_and_write)
            except OutOfSharedMemory as error:
                if self._stop.is_set():
                    return None
                log.warning("request %s waits: %s", loaded.job.request_id, error)
                await backoff.wait()

    async def _unlink(self, *names: str) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._store_thread, shm.unlink_all, names, self._uids)

    async def _failed(self, claim: Claim, attempts: int, error: Exception) -> None:
        """Have a job tried again later, or give it up."""
        if not isinstance(error, JobError):
            log.error("a job failed unexpectedly", exc_info=error)
            error = TransientFailure("internal_error", f"{type(error).__name__}: {error}")
        request = request_of(claim.payload)
        name = f"request {request[0]}" if request else f"a message on the {claim.kind} queue"
        allowed = self._settings.max_attempts
        tried = min(attempts + 1, allowed)
        if isinstance(error, TransientFailure) and tried < allowed:
            delay_s = self._settings.retry_delay_s * 2**attempts
            log.warning(
                "%s failed and is tried again in %g s (try %d of %d): %s",
                name, delay_s, tried, allowed, error,
            )  # fmt: skip
            task = asyncio.create_task(self._retry_after(claim, delay_s))
            self._delayed.add(task)
            task.add_done_callback(self._delayed.discard)
        elif await self._queues.fail(claim, error, tried, request):
            log.error("%s is dead (%s, try %d): %s", name, error.reason, tried, error)

    async def _retry_after(self, claim: Claim, delay_s: float) -> None:
        """Put a job back after a delay, which a stop cuts short."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay_s)
        await self._queues.retry(claim)


def serve(settings: Settings, load_network: Callable[[Settings], Network]) -> NoReturn:
    """Load the network, serve until a signal, and end the process with the exit status."""
    # Until there is something to finish, a stop is clean at once. (As process 1 of a container,
    # a program without a handler does not even notice the signal.)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave_now(EXIT_CLEAN))

    async def run(network: Network) -> NoReturn:
        identity = current_identity(settings)
        service = Service(settings, identity, open_queues(settings, identity), network)
        with _reported():
            # Left from inside the loop, whose own end would wait for what may hang.
            leave_now(await service.run())

    with _reported():
        network = load_network(settings)
        log.info("model %s: %s", settings.lama_checkpoint_path, network.describe())
    asyncio.run(run(network))
    raise AssertionError("run() does not return")


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """End the process on an error, with one line for those that are raised on purpose."""
    try:
        yield
    except WorkerError as error:
        log.critical("%s", error)
        leave_now(EXIT_UNCLEAN)
    except Exception:
        log.critical("the worker ends on an error that it does not know", exc_info=True)
        leave_now(EXIT_UNCLEAN)


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call back in the loop from another thread; the loop may have ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def leave_now(status: int) -> NoReturn:
    """End the process without waiting for threads, which may hang in the network."""
    logging.shutdown()
    os._exit(status)
