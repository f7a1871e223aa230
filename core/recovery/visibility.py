"""Whether this worker sees the shared memory that its jobs are in.

A worker without the producers' /dev/shm (a container without `ipc: host`, another host) finds no
segment at all. It fails faster than a good one computes, and so would take nearly every job.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Final

from core.broker.connection import pause
from core.broker.queues import Queues
from core.broker.redis_errors import REDIS_ERRORS
from core.claims import Claim
from core.config import Settings
from core.contract import input_names
from core.errors import TransientFailure
from core.keys import Kind
from core.pixels import shm
from core.telemetry import watch

log = logging.getLogger(__name__)

#: Different jobs without segments, and none with them, after which a worker stops claiming.
MOST_MISSES: Final = 3

#: Seconds between two tries of a worker that sees nothing: the first, doubled up to the last.
FIRST_INTERVAL_S, LONGEST_INTERVAL_S = 1.0, 10.0

#: The newest messages of a queue that are looked at for segments that are here.
PEEKED: Final = 50

OBSTACLE: Final = "segments"
FIX: Final = (
    "give worker and producers one IPC namespace (ipc: host, or ipc: service:…), or mount the "
    "producers' /dev/shm; workers of several hosts need queues of their own, see {host}"
)


class ShmVisibility:
    """What this worker has seen of its jobs' segments since it was started."""

    def __init__(self, settings: Settings, queues: Queues, stop: asyncio.Event) -> None:
        self._settings = settings
        self._queues = queues
        self._stop = stop
        self._missing: set[str] = set()
        self._interval_s = FIRST_INTERVAL_S
        self._next_look_at = 0.0
        self._has_said_so = False
        #: A segment was found. From then on a missing one counts against its job.
        self.is_proven = False
        #: Workers of another namespace serve the same queues.
        self.has_rivals = False
        #: sha1s of jobs whose segments went with their namespace, so that a miss is certain.
        self.certain: set[str] = set()

    @property
    def is_blind(self) -> bool:
        """Whether this worker gives jobs back instead of failing at them."""
        return not self.is_proven and len(self._missing) >= (1 if self.has_rivals else MOST_MISSES)

    def learn(self, *, has_rivals: bool, certain: set[str]) -> None:
        """What is known of other namespaces has changed."""
        self.has_rivals, self.certain = has_rivals, certain
        if self.is_blind:
            self._say_so()
        elif self._has_said_so and not self.is_proven:  # the others have gone
            self._has_said_so = False
            watch.clear_obstacle(OBSTACLE)

    def note(self, claims: Sequence[Claim], outcomes: Iterable[object]) -> None:
        """Note what came of reading these jobs."""
        if self.is_proven:
            return
        for claim, outcome in zip(claims, outcomes, strict=True):
            if not isinstance(outcome, Exception) or self._sees(claim.payload):
                self._prove()
                return
            if is_miss(outcome) and claim.sha1 not in self.certain:
                self._missing.add(claim.sha1)
        if self.is_blind:
            self._say_so()

    def excuses(self, claim: Claim, error: Exception) -> bool:
        """Whether a job failed only because this worker sees no segments."""
        return self.is_blind and is_miss(error) and claim.sha1 not in self.certain

    async def wait(self) -> None:
        """While blind, wait until it is time to look at a job again."""
        while self.is_blind and not self._stop.is_set():
            watch.claim_loop_alive()
            left_s = self._next_look_at - time.monotonic()
            if left_s > 0:
                await pause(min(left_s, 1.0), unless=self._stop)
                continue
            self._next_look_at = time.monotonic() + self._interval_s
            self._interval_s = min(2 * self._interval_s, LONGEST_INTERVAL_S)
            await self._peek()
            return

    async def _peek(self) -> None:
        """Look at the newest messages: one whose segments are here proves that they can be seen."""
        for kind in Kind:
            try:
                payloads = await self._queues.newest(kind, PEEKED)
            except REDIS_ERRORS:
                return  # the next claim will tell
            if any(self._sees(payload) for payload in payloads):
                self._prove()
                return

    def _sees(self, payload: bytes) -> bool:
        return any(shm.exists(name) for name in input_names(payload, self._settings))

    def _prove(self) -> None:
        if self.is_blind:
            log.info("a job's segment is here: jobs are taken as usual")
        self.is_proven = True
        self._missing.clear()
        watch.clear_obstacle(OBSTACLE)

    def _say_so(self) -> None:
        if self._has_said_so:
            return
        self._has_said_so = True
        self._next_look_at = time.monotonic() + self._interval_s
        others = " (workers with another one take the same jobs)" if self.has_rivals else ""
        reason = (
            f"no segment of {len(self._missing)} jobs in a row is in this /dev/shm{others}: "
            f"the worker gives jobs back and looks at one at a time; {FIX}"
        )
        log.error("%s", reason)
        watch.set_obstacle(OBSTACLE, reason)


def is_miss(outcome: object) -> bool:
    """Whether a job could not be read because there is no such segment."""
    return isinstance(outcome, TransientFailure) and outcome.reason == "segment_missing"
