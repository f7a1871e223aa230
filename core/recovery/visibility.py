"""Whether this worker sees the shared memory of its jobs.

A worker without the senders' /dev/shm (a container without `ipc: host`, another host) finds no
segment. It would fail faster than a healthy worker computes, and so would take nearly every job.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Final, TypeGuard

from core.broker.connection import pause
from core.broker.queues import Queues
from core.broker.redis_errors import REDIS_ERRORS
from core.claims import Claim
from core.config import WireFormat
from core.contract import input_names
from core.errors import JobError, TransientFailure
from core.keys import Kind
from core.pixels import shm
from core.telemetry import watch
from core.telemetry.logs import number_of

log = logging.getLogger(__name__)

#: Number of different jobs without segments after which a worker stops claiming, if no job had any.
MOST_MISSES: Final = 3

#: Seconds between two jobs of a blind worker: the first interval, doubled up to the longest.
FIRST_INTERVAL_S, LONGEST_INTERVAL_S = 1.0, 10.0

#: Number of the newest messages of a queue whose segments a blind worker looks for.
PEEKED: Final = 50

#: Reasons of failures that a worker has at every job if it cannot use the shared memory.
MISSES: Final = ("segment_missing", "segment_unreadable")

OBSTACLE: Final = "segments"
FIX: Final = (
    "give worker and senders one IPC namespace (ipc: host, or ipc: service:…), or mount the "
    "senders' /dev/shm; keep senders on Python before 3.13 from unlinking their segments when they "
    "exit (docs/contract.md); workers of several hosts need queues of their own, see {host}"
)


class ShmVisibility:
    """Whether this worker has found segments of its jobs since its start."""

    def __init__(
        self, queues: Queues, stop: asyncio.Event, wire: WireFormat, uids: Collection[int]
    ) -> None:
        """`uids` are the owners whose segments may be read."""
        self._queues = queues
        self._stop = stop
        self._wire = wire
        self._uids = uids
        self._missing: set[str] = set()
        self._last_miss: TransientFailure | None = None
        self._interval_s = FIRST_INTERVAL_S
        self._next_try_at = 0.0
        self._is_reported = False
        #: A segment was found. From then on, a missing segment is the fault of its job.
        self.is_proven = False
        #: Workers of another namespace serve the same queues.
        self.has_rivals = False
        #: sha1s of jobs whose segments are gone with their namespace: no worker would find them.
        self.known_gone: set[str] = set()

    @property
    def is_blind(self) -> bool:
        """Whether this worker seems to see no segments, so that it gives jobs back."""
        return not self.is_proven and len(self._missing) >= (1 if self.has_rivals else MOST_MISSES)

    def update(self, *, has_rivals: bool, known_gone: set[str]) -> None:
        """Take over what is known of other namespaces."""
        self.has_rivals, self.known_gone = has_rivals, known_gone
        if self.is_blind:
            self._report()
        elif self._is_reported and not self.is_proven:  # the others have gone
            self._is_reported = False
            watch.clear_obstacle(OBSTACLE)

    def note(self, claims: Sequence[Claim], outcomes: Iterable[object]) -> None:
        """Take the results, or errors, of reading these jobs into account."""
        if self.is_proven:
            return
        for claim, outcome in zip(claims, outcomes, strict=True):
            if not isinstance(outcome, Exception) or self._sees(claim.payload):
                self._prove()
                return
            if is_miss(outcome) and claim.sha1 not in self.known_gone:
                self._missing.add(claim.sha1)
                self._last_miss = outcome
        if self.is_blind:
            self._report()

    def excuses(self, claim: Claim, error: Exception) -> bool:
        """Whether a job failed only because this worker sees no segments."""
        return self.is_blind and is_miss(error) and claim.sha1 not in self.known_gone

    def leaves(self, claim: Claim) -> bool:
        """Whether a job that is only to be cleaned up is left to workers of another namespace.

        A worker that has seen no segment yet could not unlink its inputs, if they are elsewhere.
        Those workers may all be dead at present.
        """
        may_be_elsewhere = self.has_rivals or self.is_blind
        if self.is_proven or not may_be_elsewhere or claim.sha1 in self.known_gone:
            return False
        if self._sees(claim.payload):
            self._prove()
            return False
        self._missing.add(claim.sha1)
        self._report()
        return True

    async def wait(self) -> None:
        """While blind, wait until the next job may be tried."""
        while self.is_blind and not self._stop.is_set():
            watch.claim_loop_alive()
            remaining_s = self._next_try_at - time.monotonic()
            if remaining_s > 0:
                await pause(min(remaining_s, 1.0), unless=self._stop)
                continue
            self._next_try_at = time.monotonic() + self._interval_s
            self._interval_s = min(2 * self._interval_s, LONGEST_INTERVAL_S)
            await self._peek()
            return

    async def _peek(self) -> None:
        """Check the newest messages: a segment that is here proves that this worker sees them."""
        for kind in Kind:
            try:
                payloads = await self._queues.newest(kind, PEEKED)
            except REDIS_ERRORS:
                return  # the next claim will show
            if any(self._sees(payload) for payload in payloads):
                self._prove()
                return

    def _sees(self, payload: bytes) -> bool:
        return any(self._is_here(name) for name in input_names(payload, self._wire))

    def _is_here(self, name: str) -> bool:
        try:
            shm.check_readable(name, self._uids)
        except JobError as error:  # a segment that is refused is here
            return not is_miss(error)
        return True

    def _prove(self) -> None:
        if self.is_blind:
            log.info("a job's segment is here: jobs are taken as usual")
        self.is_proven = True
        self._missing.clear()
        watch.clear_obstacle(OBSTACLE)

    def _report(self) -> None:
        if self._is_reported:
            return
        self._is_reported = True
        self._next_try_at = time.monotonic() + self._interval_s
        others = " (workers with another one take the same jobs)" if self.has_rivals else ""
        finding, fix = "is in this /dev/shm", FIX
        if self._last_miss and self._last_miss.reason != "segment_missing":
            finding, fix = "can be opened", str(self._last_miss)
        reason = (
            f"no segment of {number_of(len(self._missing), 'job')} in a row {finding}{others}: "
            f"the worker gives jobs back and looks at one at a time; {fix}"
        )
        log.error("%s", reason)
        watch.set_obstacle(OBSTACLE, reason)


def is_miss(outcome: object) -> TypeGuard[TransientFailure]:
    """Whether a job could not be read because its segment is not here, or cannot be opened."""
    return isinstance(outcome, TransientFailure) and outcome.reason in MISSES
