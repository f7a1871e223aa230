"""What a worker does when its device, and not its jobs, is at fault.

Jobs are given up one by one for what may be the device's fault: a crash, an error of the network,
no memory. The first may be a bad picture. Where a second one would be given up and no result was
delivered since, it is not. The worker then tries one job a minute until a result is delivered, by
itself or by another worker of its namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

from core.broker.connection import pause
from core.broker.queues import Queues
from core.broker.redis_errors import REDIS_ERRORS
from core.errors import JobError
from core.telemetry import watch

log = logging.getLogger(__name__)

#: Seconds between two tries.
TRY_INTERVAL_S = 60.0

#: Seconds between two looks at whether a result was delivered.
LOOK_INTERVAL_S: Final = 1.0

OBSTACLE: Final = "device"

#: The reason of a job on which its workers died.
CRASHED: Final = "crashed"

#: Reasons that may be the fault of the device.
DEVICE_REASONS: Final = (CRASHED, "inference_failed", "out_of_memory", "out_of_resources")


class DeviceHold:
    """Whether jobs are claimed one a minute, and when the next is."""

    def __init__(self, queues: Queues, stop: asyncio.Event) -> None:
        self._queues = queues
        self._stop = stop
        self._next_try_at = 0.0
        self._has_asked = False
        self.is_active = False

    def begin(self, error: JobError | str) -> None:
        """Jobs fail one after another, lastly with this error."""
        reason = (
            f"jobs fail one after another and none is delivered ({error}): the device seems to be "
            f"at fault. No job is given up; one is tried every {TRY_INTERVAL_S:g} s. Look at the "
            "device, its driver and its memory"
        )
        if not self.is_active:
            log.error("%s", reason)
            self.tried()
        self.is_active = True
        watch.set_obstacle(OBSTACLE, reason)

    def tried(self) -> None:
        """A job is being tried; the next one has to wait."""
        self._next_try_at = time.monotonic() + TRY_INTERVAL_S

    async def wait(self) -> None:
        """While it lasts, wait until the next job may be tried."""
        if not self._has_asked:
            await self._ask()
        while self.is_active and not self._stop.is_set():
            watch.claim_loop_alive()
            await self._end_if_over()
            left_s = self._next_try_at - time.monotonic()
            if not self.is_active or left_s <= 0:
                return
            await pause(min(left_s, LOOK_INTERVAL_S), unless=self._stop)

    async def _ask(self) -> None:
        """Find out whether another worker, or this one before its restart, has begun the hold."""
        with contextlib.suppress(*REDIS_ERRORS):  # then no job is claimed either
            if await self._queues.is_device_held():
                self.begin("every worker fails")
            self._has_asked = True

    async def _end_if_over(self) -> None:
        try:
            if await self._queues.is_device_held():
                return
        except REDIS_ERRORS:
            return  # it lasts until Redis says otherwise
        self.is_active = False
        watch.clear_obstacle(OBSTACLE)
        log.info("a result was delivered: jobs are taken as usual")


def may_be_the_devices(error: JobError) -> bool:
    """Whether a job failed for something that may be the fault of the device, and not its own."""
    return error.reason in DEVICE_REASONS
