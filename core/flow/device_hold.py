"""Holds jobs while the device seems to be at fault.

Some failures may be the job's fault or the device's: a crash, an error of the network, no memory.
The first job that would be given up for one is given up, since its picture may be bad. If a second
one follows and no result has been delivered in between, the device is blamed: jobs are held, that
is, not given up. The worker then tries one job a minute until this or another worker of its
namespace delivers a result.
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

#: Seconds between two jobs while a hold is active.
TRY_INTERVAL_S = 60.0

#: Seconds between two checks whether a result was delivered.
LOOK_INTERVAL_S: Final = 1.0

OBSTACLE: Final = "device"

#: The reason of a job that killed its workers.
CRASHED: Final = "crashed"

#: Reasons for which the device may be at fault.
DEVICE_REASONS: Final = (CRASHED, "inference_failed", "out_of_memory", "out_of_resources")


class DeviceHold:
    """Whether a hold is active, and when the next job may be tried."""

    def __init__(self, queues: Queues, stop: asyncio.Event) -> None:
        self._queues = queues
        self._stop = stop
        self._next_try_at = 0.0
        self._has_asked = False
        self.is_active = False

    def begin(self, error: JobError | str) -> None:
        """Begin the hold: jobs fail one after another, the last one with this error."""
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
        """Note that a job is being tried; the next one has to wait."""
        self._next_try_at = time.monotonic() + TRY_INTERVAL_S

    async def wait(self) -> None:
        """While the hold is active, wait until the next job may be tried."""
        if not self._has_asked:
            await self._ask()
        while self.is_active and not self._stop.is_set():
            watch.claim_loop_alive()
            await self._end_if_over()
            remaining_s = self._next_try_at - time.monotonic()
            if not self.is_active or remaining_s <= 0:
                return
            await pause(min(remaining_s, LOOK_INTERVAL_S), unless=self._stop)

    async def _ask(self) -> None:
        """Find out whether another worker, or this one before a restart, has begun a hold."""
        with contextlib.suppress(*REDIS_ERRORS):  # then no job can be claimed either
            if await self._queues.is_device_held():
                self.begin("every worker fails")
            self._has_asked = True

    async def _end_if_over(self) -> None:
        try:
            if await self._queues.is_device_held():
                return
        except REDIS_ERRORS:
            return  # the hold lasts until Redis says otherwise
        self.is_active = False
        watch.clear_obstacle(OBSTACLE)
        log.info("a result was delivered: jobs are taken as usual")


def may_be_the_devices(error: JobError) -> bool:
    """Whether a job failed for a reason for which the device may be at fault."""
    return error.reason in DEVICE_REASONS
