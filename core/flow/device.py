"""The network in its threads: launches and collects batches, and limits their time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from core.claims import Claim
from core.errors import DeviceFault, HungInference
from core.pixels.handover import Filled, Loaded, Network, is_pending
from core.telemetry import watch

Result = TypeVar("Result")

#: Batches that the device has at once. A device that computes by itself is given the next batch
#: before it is done with the last one, so that it never waits for the host.
MOST_ON_DEVICE: Final = 2


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch that the device has; its pictures may be pending. `began` is time.monotonic()."""

    claims: Sequence[Claim]
    pictures: Sequence[Filled]
    began: float


class Device:
    """The network in its threads, and the batches that it may have at once.

    A batch needs one of `slots` until it is collected, and `launching` while it is launched. Both
    serve first come, first served. `launcher` has a single thread.
    """

    def __init__(self, network: Network, timeout_s: float, launcher: Executor) -> None:
        self._network = network
        self._timeout_s = timeout_s
        self._launcher = launcher
        # A thread for each batch on the device: it waits, and must not keep others from copying.
        self._collectors = ThreadPoolExecutor(MOST_ON_DEVICE, "collect")
        self.slots = asyncio.Semaphore(MOST_ON_DEVICE)
        self.launching = asyncio.Lock()
        #: When a batch was last computed, by time.monotonic().
        self._done_at = 0.0
        #: The jobs that the device was given when it failed or hung.
        self.failed_at: list[Claim] = []
        self.has_hung = False

    @property
    def is_busy(self) -> bool:
        """Whether a batch that comes now has to wait."""
        return self.slots.locked() or self.launching.locked()

    async def launch(self, jobs: Sequence[tuple[Claim, Loaded]]) -> Launched:
        """Compute a batch, or have a device begin to. To be called with a slot and `launching`.

        Raises HungInference if the network does not return in time, DeviceFault if only a new
        process can compute.
        """
        claims, batch = [claim for claim, _ in jobs], [loaded for _, loaded in jobs]
        began = time.monotonic()
        watch.batch_started()
        loop = asyncio.get_running_loop()
        launching = loop.run_in_executor(self._launcher, self._network, batch)
        return Launched(claims, await self.in_time(launching, claims), began)

    async def collect(self, launched: Launched) -> tuple[Sequence[Filled], float]:
        """The pictures of a batch, and the seconds that they took. To be called with its slot.

        Raises as `launch` does.
        """
        pictures = launched.pictures
        if any(is_pending(picture) for picture in pictures):
            loop = asyncio.get_running_loop()
            collecting = loop.run_in_executor(self._collectors, self._network.collect, pictures)
            pictures = await self.in_time(collecting, launched.claims)
        now = time.monotonic()
        seconds = now - max(launched.began, self._done_at)
        self._done_at = now
        return pictures, seconds

    async def in_time(self, doing: Awaitable[Result], claims: Sequence[Claim]) -> Result:
        """Wait for work that needs the device; raises HungInference after INFERENCE_TIMEOUT_S.

        The work itself cannot be stopped. The jobs of the first failure are kept in `failed_at`.
        """
        began = time.monotonic()
        result = asyncio.ensure_future(doing)
        with self._failing_at(claims):
            while not result.done():
                progressed_at = max(began, self._network.progressed_at, self._done_at)
                remaining_s = self._timeout_s - (time.monotonic() - progressed_at)
                if remaining_s <= 0:
                    raise HungInference(
                        f"a batch of {len(claims)} is not done after INFERENCE_TIMEOUT_S="
                        f"{self._timeout_s:g}: the process ends, the batch is tried again"
                    )
                await asyncio.wait({result}, timeout=remaining_s)
            return result.result()

    @contextlib.contextmanager
    def _failing_at(self, claims: Sequence[Claim]) -> Iterator[None]:
        try:
            yield
        except (DeviceFault, HungInference) as error:
            if not self.failed_at:
                self.has_hung = isinstance(error, HungInference)
                self.failed_at = list(claims)
            raise
