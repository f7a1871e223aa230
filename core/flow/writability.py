"""Whether this worker can write results to shared memory.

A worker whose /dev/shm is read-only, or closed to its user, would compute each job for nothing and
fail faster than a healthy one: it would take nearly every job.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from core.broker.connection import pause
from core.errors import SharedMemoryRefusal
from core.pixels import shm
from core.telemetry import watch

log = logging.getLogger(__name__)

#: Seconds between two checks while nothing can be written.
CHECK_S: Final = 1.0

OBSTACLE: Final = "writing"


class ShmWritability:
    """Keeps a worker from claiming jobs while it cannot write their results."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._is_checked = False
        self._is_refused = False
        #: The uid that results have to be given to; None until one could not be.
        self._owner: int | None = None

    def note(self, refusal: SharedMemoryRefusal, owner: int) -> None:
        """A result for this uid could not be written."""
        self._owner = owner
        self._refuse(refusal)

    async def wait(self) -> None:
        """Return once results can be written, or at a stop."""
        if not self._is_checked:
            self._is_checked = True
            self._check()
        while self._is_refused and not self._stop.is_set():
            watch.claim_loop_alive()
            await pause(CHECK_S, unless=self._stop)
            self._check()

    def _check(self) -> None:
        try:
            shm.check_writable(self._owner)
        except SharedMemoryRefusal as refusal:
            self._refuse(refusal)
            return
        if self._is_refused:
            self._is_refused = False
            log.info("results can be written again: jobs are taken as usual")
            watch.clear_obstacle(OBSTACLE)

    def _refuse(self, refusal: SharedMemoryRefusal) -> None:
        if not self._is_refused:
            self._is_refused = True
            log.error("no jobs are taken: %s", refusal)
        watch.set_obstacle(OBSTACLE, str(refusal))
