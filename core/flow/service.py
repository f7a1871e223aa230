"""The daemon: start, registration, serving, signals and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Final, NoReturn

from redis.exceptions import AuthenticationError, NoPermissionError

from core.admin import start_admin
from core.broker.heartbeat import Heartbeat
from core.broker.open import open_queues
from core.broker.queues import Queues
from core.broker.redis_errors import REDIS_ERRORS
from core.config import Delivery, Settings
from core.errors import RedisRefusal, RedisUnsuitable, SharedMemoryRefusal, WorkerError
from core.faults import Fault, fault_point
from core.flow.pipeline import BatchPipeline
from core.flow.waiting import promote_due_jobs
from core.identity import Identity, current_identity
from core.network import settle_memory
from core.pixels import shm
from core.pixels.handover import Network
from core.recovery.recovery import Recovery
from core.telemetry import tracing, watch
from core.telemetry.logs import tell_dropped_lines
from core.telemetry.record import Phase
from core.telemetry.spans import FLUSH_S

log = logging.getLogger(__name__)

EXIT_CLEAN: Final = 0
EXIT_UNCLEAN: Final = 1

#: Seconds that giving jobs back and deregistering may take at the end, if Redis is slow or away.
LEAVING_S: Final = 5.0


class Service:
    """One worker: an event loop, threads for each stage, and a thread for the heartbeat."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        queues: Queues,
        network: Network,
        infer_thread: Executor,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._queues = queues
        self._stop = asyncio.Event()
        self._pipeline = BatchPipeline(
            settings, identity, queues, network, infer_thread, self._stop
        )
        #: Set by a second signal, whose number is kept: the grace time is over.
        self._hurry = asyncio.Event()
        self._second_signal = 0
        self._recovery = Recovery(settings, identity, queues.link, self._pipeline.visibility)

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit status.

        Raises RedisUnsuitable if the server does not meet the requirements, RedisRefusal for a
        permanent error, HungInference or DeviceFault if only a new process can compute.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        if not await self._start():
            return EXIT_CLEAN
        heartbeat = Heartbeat(
            self._settings,
            self._identity,
            on_revival=lambda: _soon(loop, self._pipeline.request_reconcile),
        )
        heartbeat.start()
        fault_point(Fault.REGISTERED)
        watch.serving(self._identity.worker, self._queues.count_in_flight)
        log.info(
            "worker %s takes jobs from %s and %s",
            self._identity.worker,
            self._settings.lama_inference_long_tasks_queue,
            self._settings.lama_inference_short_tasks_queue,
        )
        with contextlib.suppress(*REDIS_ERRORS):
            await self._recovery.recover_other_crews()
        background = [
            asyncio.create_task(task)
            for task in (self._recovery.run(), promote_due_jobs(self._queues), _pulse())
        ]
        status = EXIT_UNCLEAN
        try:
            status = await self._serve(background)
            return status
        finally:
            watch.phase = Phase.STOPPING
            for task in background:
                task.cancel()
            try:
                async with asyncio.timeout(LEAVING_S):
                    await self._leave(heartbeat, is_clean=status == EXIT_CLEAN)
            except TimeoutError:
                log.error("redis does not answer: what is left is recovered by other workers")

    async def _leave(self, heartbeat: Heartbeat, *, is_clean: bool) -> None:
        """Give back unfinished jobs, then deregister."""
        # First, so that other workers recover the rest if this process dies half-way.
        await asyncio.to_thread(heartbeat.stop)
        with contextlib.suppress(*REDIS_ERRORS, RedisRefusal, SharedMemoryRefusal):
            if is_clean:
                await self._recovery.tidy()
            else:
                await self._pipeline.give_back_unfinished()
                if self._queues.keeps_payload:
                    await self._recovery.give_back_own()
            await self._queues.deregister()
        await self._queues.close()
        await self._recovery.close()

    async def _start(self) -> bool:
        """Check the server and register; False if a signal came first."""
        ready: asyncio.Future[Any] = asyncio.ensure_future(
            self._queues.link.repeat_until_answered(lambda _: self._register())
        )
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
            queue = self._settings.result_queue
            also = f" (it also needs the right to RESULT_QUEUE {queue!r})" if queue else ""
            raise RedisUnsuitable(f"redis refuses this user: {error}{also}") from error
        await self._queues.register()
        if self._settings.delivery is Delivery.AT_MOST_ONCE:
            log.warning("DELIVERY=at_most_once: a crash loses what is computed and read ahead")
        if uids := shm.not_unlinkable(self._settings.uids):
            log.warning(
                "SHM_ALLOWED_UIDS: this worker (uid %d) can't unlink segments of uid %s in %s, so "
                "the inputs of their jobs stay: run both under one uid, or the worker as root",
                os.geteuid(),
                ", ".join(map(str, uids)),
                shm.SHM_FOLDER,
            )

    async def _serve(self, background: Sequence[asyncio.Future[Any]]) -> int:
        working: asyncio.Future[Any] = asyncio.ensure_future(self._pipeline.run())
        stop: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({working, stop, *background}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, *background):
            if task.done():
                stop.cancel()
                task.result()  # raises: before a stop, only an error ends it
        grace_s = self._settings.shutdown_grace_s
        finishing: asyncio.Future[Any] = asyncio.ensure_future(self._finish(working))
        hurry: asyncio.Future[Any] = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({finishing, hurry}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if finishing.done():
            finishing.result()
            log.info("stopped")
            return EXIT_CLEAN
        finishing.cancel()
        why = "a second signal" if self._second_signal else f"SHUTDOWN_GRACE_S={grace_s:g} is over"
        log.error("not stopped cleanly (%s): what is in hand is given back to the queues", why)
        return 128 + self._second_signal if self._second_signal else EXIT_UNCLEAN

    async def _finish(self, working: asyncio.Future[Any]) -> None:
        stopping = asyncio.create_task(self._pipeline.stop_claiming())
        await asyncio.wait({working})  # unlike `await working`, this does not pass a cancel on
        working.result()
        await stopping
        await self._pipeline.release_unstarted()

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._hurry.is_set():
            log.error("%s once more: stopped at once, other workers recover what is left", name)
            leave_now(128 + number)
        if self._stop.is_set():
            self._second_signal = number
            self._hurry.set()
            return
        watch.phase = Phase.STOPPING
        log.info("%s: no more claims, finishing the batch in hand", name)
        self._stop.set()


def serve(settings: Settings, load_network: Callable[[Settings], Network]) -> NoReturn:
    """Load the network, serve until a signal, and end the process with the exit status."""
    settle_memory()
    # While there is nothing to finish, a stop is clean at once. (Process 1 of a container ignores
    # signals for which it has no handler.)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave_now(EXIT_CLEAN))

    # The thread that computes also loads the network: OpenMP keeps a team of threads for each
    # thread that computes, and a second team makes both slower by a sixth.
    infer_thread = ThreadPoolExecutor(1, "infer")

    async def run(network: Network) -> NoReturn:
        with _reported():
            identity = current_identity(settings.queues)
            queues = open_queues(settings, identity)
            service = Service(settings, identity, queues, network, infer_thread)
            try:
                status = await service.run()
            finally:
                if admin:  # after an error too: this takes back pictures being tried
                    await asyncio.to_thread(admin.stop)
            with contextlib.suppress(TimeoutError):  # the SDK itself may wait for ever
                async with asyncio.timeout(FLUSH_S):
                    await asyncio.to_thread(tracing.flush)
            # From inside the event loop: closing it would wait for threads, which may hang.
            leave_now(status)

    with _reported():
        tracing.start()
        admin = start_admin(settings)  # before the network is loaded, so that probes are answered
        network = infer_thread.submit(load_network, settings).result()
        log.info("model %s: %s", settings.lama_checkpoint_path, network.describe())
        network.prepare()
        watch.model, watch.phase = network.describe(), Phase.CONNECTING
        watch.lacks_gpu = network.lacks_gpu
        watch.half_fallbacks = lambda: network.half_fallbacks
    asyncio.run(run(network))
    raise AssertionError("run() does not return")


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """End the process on an error, with one log line for a WorkerError."""
    try:
        yield
    except WorkerError as error:
        log.critical("%s", error)
        leave_now(EXIT_UNCLEAN)
    except Exception:
        log.critical("the worker ends on an unexpected error", exc_info=True)
        leave_now(EXIT_UNCLEAN)


async def _pulse() -> None:
    """Report every second that the event loop is alive, and what an idle worker's log lacks."""
    while True:
        watch.event_loop_alive()
        tell_dropped_lines()
        await asyncio.sleep(1)


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Schedule a callback in the loop from another thread; does nothing if the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def leave_now(status: int) -> NoReturn:
    """End the process without waiting for threads, which may hang in the network."""
    logging.shutdown()
    os._exit(status)
