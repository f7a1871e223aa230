"""Fills batches with jobs, alternating between the two queues."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.broker.connection import Backoff
from core.broker.queues import Queues
from core.broker.redis_errors import REDIS_ERRORS
from core.claims import Claim, Standing
from core.faults import Fault, fault_point
from core.keys import Kind
from core.telemetry import log_extra, watch
from core.telemetry.logs import number_of

log = logging.getLogger(__name__)

#: Share of BATCH_MAX_WAIT_MS without a new job after which a batch is closed. So a lone job on an
#: idle worker waits only 20 % of it; jobs of a burst may wait for all of it.
QUIET_PART = 0.2

#: Longest sleep during this wait, in seconds; a stop is noticed after it.
LONGEST_SLEEP_S = 0.1

#: Seconds between two calls that end a blocking claim at a stop.
UNBLOCK_INTERVAL_S = 0.005


@dataclass(frozen=True, slots=True)
class Batch:
    """Claimed jobs of one kind, all of which have failed `attempts` times before.

    A job that has failed before is alone in its batch. So is a `superseded` one, which is to be
    dropped: a newer submission of its request is done.
    """

    kind: Kind
    claims: tuple[Claim, ...]
    attempts: int
    superseded: bool = False


class BatchSource:
    """Turns the two queues into a sequence of batches.

    While both queues have jobs they alternate, batch by batch, even if one is longer. A job with an
    attempt behind it is claimed alone and gets its own batch, so that no other job gets an attempt
    if it kills the worker.
    """

    def __init__(
        self,
        queues: Queues,
        sizes: Mapping[Kind, int],
        *,
        max_wait_ms: float,
        reconcile_interval_s: float,
    ) -> None:
        """`sizes` are the largest batches; one that is not full waits up to `max_wait_ms`."""
        self._queues = queues
        self._sizes = sizes
        self._max_wait_s = max_wait_ms / 1000
        self._reconcile_interval_s = reconcile_interval_s
        self._turn = Kind.LONG
        self._claimed: list[Claim] = []
        self._reconcile_at = 0.0
        self._stopping = False
        self._most: int | None = None
        #: Whether a claim may be in flight.
        self.is_claiming = False

    async def next_batch(self, most: int | None = None) -> Batch | None:
        """Wait for the next batch, of at most `most` jobs; None once the source is stopped.

        Waits while Redis is away, and takes up jobs whose claim lost its reply. Raises
        RedisRefusal for a permanent error.
        """
        self._most = most
        self.is_claiming = True
        try:
            return await self._next_batch()
        finally:
            self.is_claiming = False

    async def _next_batch(self) -> Batch | None:
        backoff = Backoff()
        while not self._stopping:
            watch.claim_loop_alive()
            try:
                batch = await self._fill()
            except REDIS_ERRORS as error:
                self.request_reconcile()
                self._queues.link.down("claim", error)
                await backoff.wait()
            else:
                self._queues.link.up("claim")
                backoff.reset()
                if batch is not None:
                    return batch
        return None

    def request_reconcile(self) -> None:
        """Compare the processing lists with the known claims before the next claim."""
        self._reconcile_at = 0.0

    async def stop(self) -> None:
        """Make next_batch() return None from now on; returns once no claim is in flight."""
        self._stopping = True
        while self.is_claiming:
            # Repeated: a blocking command that is still on its way to Redis cannot be unblocked.
            await self._queues.unblock()
            await asyncio.sleep(UNBLOCK_INTERVAL_S)

    def unstarted(self) -> list[Claim]:
        """The jobs that were claimed and in no batch yet, in the order of their claims."""
        return self._claimed

    async def _fill(self) -> Batch | None:
        if time.monotonic() >= self._reconcile_at:
            recovered = await self._queues.reconcile()
            if recovered:
                requests = [claim.request_id for claim in recovered if claim.request]
                log.warning(
                    "took up %s claimed without a reply: %s",
                    number_of(len(recovered), "job"),
                    ", ".join(requests),
                    extra=log_extra(*requests),
                )
                self._claimed += recovered
            self._reconcile_at = time.monotonic() + self._reconcile_interval_s
        if not self._claimed:
            await self._claim()
        if not self._claimed:
            return None
        standings = await self._queues.enter(self._claimed)
        fault_point(Fault.CLAIMED)
        entered = list(zip(self._claimed, standings, strict=True))
        kind = self._claimed[0].kind
        entered.sort(key=lambda entry: entry[0].kind is not kind)
        batch = self._choose(entered)
        surplus = [claim for claim, _ in entered[len(batch.claims) :]]
        self._claimed = []
        if surplus:  # of the other kind, or taken up by reconcile()
            await self._queues.release(surplus)
        return batch

    async def _claim(self) -> None:
        # Every claim is added to self._claimed at once, so that a later error does not lose it.
        sizes = {kind: self._size(kind) for kind in Kind}
        self._claimed += await self._queues.take_either(self._turn, sizes)
        if not self._claimed:
            self._claimed += await self._queues.wait_for_either(self._turn)
            # What BLPOP has claimed is not recorded yet. Submissions of a request are ordered by
            # their records, and another one may be claimed next, here or by another worker.
            await self._queues.enter(self._claimed)
        if not self._claimed:
            return
        kind = self._claimed[0].kind
        self._turn = kind.other
        await self._top_up(kind)

    async def _top_up(self, kind: Kind) -> None:
        size = self._size(kind)
        longest_s = self._max_wait_s
        deadline = time.monotonic() + longest_s
        first = self._claimed[0]
        self._claimed += await self._queues.take(kind, size - self._count(kind), first)
        while self._count(kind) < size and not self._stopping:
            wait_s = min(deadline - time.monotonic(), longest_s * QUIET_PART)
            if wait_s <= 0:
                return
            # Not a blocking command: the server ends those up to 0.1 s late.
            await self._wait(wait_s)
            if self._stopping:
                return
            more = await self._queues.take(kind, size - self._count(kind), first)
            if not more:
                return
            self._claimed += more

    async def _wait(self, wait_s: float) -> None:
        """Sleep in short pieces, to report that the loop is alive and to notice a stop."""
        end = time.monotonic() + wait_s
        while not self._stopping and (remaining_s := end - time.monotonic()) > 0:
            watch.claim_loop_alive()
            await asyncio.sleep(min(remaining_s, LONGEST_SLEEP_S))

    def _size(self, kind: Kind) -> int:
        return min(self._sizes[kind], self._most or sys.maxsize)

    def _count(self, kind: Kind) -> int:
        return sum(claim.kind is kind for claim in self._claimed)

    def _choose(self, entered: Sequence[tuple[Claim, Standing]]) -> Batch:
        """A batch of the first of these jobs and of those after it that may share its batch."""
        first, standing = entered[0]
        kind = first.kind
        if standing != Standing(0):
            return Batch(kind, (first,), standing.attempts, standing.superseded)
        batch = itertools.takewhile(
            lambda entry: entry[0].kind is kind and entry[1] == Standing(0),
            entered[: self._size(kind)],
        )
        return Batch(kind, tuple(claim for claim, _ in batch), 0)
