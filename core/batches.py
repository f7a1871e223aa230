"""Filling batches and taking turns between the two queues."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from core.config import Settings
from core.connection import REDIS_ERRORS, Backoff
from core.contract import request_of
from core.faults import Fault, reach
from core.keys import Kind
from core.queues import Claim, Queues
from core.telemetry import about, watch

log = logging.getLogger(__name__)

#: Part of the wait for more jobs that may pass without one arriving. A lone job on an idle
#: worker so waits for a fifth of BATCH_MAX_WAIT_MS, one of a burst for the whole of it.
QUIET_PART = 0.2


@dataclass(frozen=True, slots=True)
class Batch:
    """Claimed jobs of one kind, all of which have failed `attempts` times before.

    Where that is not 0, there is one job only.
    """

    kind: Kind
    claims: tuple[Claim, ...]
    attempts: int


class BatchSource:
    """Turns the two queues into a sequence of batches.

    While both queues have work they take turns, batch by batch, whatever their lengths. A job
    with an attempt against it is claimed alone and gets a batch of its own: if it is what kills
    workers, no other job gets an attempt for that.
    """

    def __init__(self, settings: Settings, queues: Queues) -> None:
        self._settings = settings
        self._queues = queues
        self._turn = Kind.LONG
        self._claimed: list[Claim] = []
        self._reconcile_at = 0.0
        self._stopping = False

    async def next_batch(self) -> Batch | None:
        """The next batch, as soon as there is one; None once the source has been stopped.

        Returns to Redis by itself after an outage, and takes up what was claimed without a reply.
        """
        backoff = Backoff()
        while not self._stopping:
            watch.turned()
            try:
                batch = await self._fill()
            except REDIS_ERRORS as error:
                self.suspect()
                self._queues.link.down(error)
                await backoff.wait()
            else:
                self._queues.link.up()
                backoff.reset()
                if batch is not None:
                    return batch
        return None

    def suspect(self) -> None:
        """Have the processing lists compared with what this worker knows before the next claim."""
        self._reconcile_at = 0.0

    async def stop(self) -> None:
        """Have next_batch() return soon. To be repeated until it has: a wait may just begin."""
        self._stopping = True
        await self._queues.unblock()

    def unstarted(self) -> list[Claim]:
        """The jobs that were claimed and not handed out, in the order of their claims."""
        return self._claimed

    async def _fill(self) -> Batch | None:
        if time.monotonic() >= self._reconcile_at:
            found = await self._queues.reconcile()
            if found:
                requests = [one[0] for claim in found if (one := request_of(claim.payload))]
                log.warning(
                    "took up %d jobs that were claimed without a reply: %s",
                    len(found), ", ".join(requests), extra=about(*requests),
                )  # fmt: skip
                self._claimed += found
            self._reconcile_at = time.monotonic() + self._settings.heartbeat_interval_s
        if not self._claimed:
            await self._claim()
        if not self._claimed:
            return None
        reach(Fault.CLAIMED)
        batch = self._choose(self._claimed, await self._queues.attempts(self._claimed))
        surplus = self._claimed[len(batch.claims) :]
        self._claimed = []
        if surplus:  # of what was taken up without a reply
            await self._queues.release(surplus)
        return batch

    async def _claim(self) -> None:
        # Every claim goes into self._claimed at once: an error further on must not forget it.
        for kind in (self._turn, self._turn.other):
            self._claimed += await self._queues.take(kind, self._settings.batch_size(kind))
            if self._claimed:
                break
        else:
            self._claimed += await self._queues.wait_for_either(self._turn)
        if not self._claimed:
            return
        kind = self._claimed[0].kind
        self._turn = kind.other
        if surplus := [claim for claim in self._claimed if claim.kind is not kind]:
            self._claimed = [claim for claim in self._claimed if claim.kind is kind]
            await self._queues.release(surplus)
        await self._top_up(kind)

    async def _top_up(self, kind: Kind) -> None:
        size = self._settings.batch_size(kind)
        longest_s = self._settings.batch_max_wait_ms / 1000
        deadline = time.monotonic() + longest_s
        first = self._claimed[0]
        self._claimed += await self._queues.take(kind, size - len(self._claimed), first)
        while len(self._claimed) < size and not self._stopping:
            wait_s = min(deadline - time.monotonic(), longest_s * QUIET_PART)
            if wait_s <= 0:
                return
            # Not by a blocking command: the server ends those up to 0.1 s late.
            await asyncio.sleep(wait_s)
            more = await self._queues.take(kind, size - len(self._claimed), first)
            if not more:
                return
            self._claimed += more

    def _choose(self, claims: Sequence[Claim], attempts: Sequence[int]) -> Batch:
        """The first of these jobs with as many of those after it as may share its batch."""
        kind = claims[0].kind
        if attempts[0] > 0:
            return Batch(kind, (claims[0],), attempts[0])
        size = self._settings.batch_size(kind)
        fellows = itertools.takewhile(
            lambda judged: judged[0].kind is kind and judged[1] == 0,
            zip(claims[:size], attempts[:size], strict=True),
        )
        return Batch(kind, tuple(claim for claim, _ in fellows), 0)
