"""Expiry of results: removes those not fetched in time, and the records of fetched ones."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, cast

from redis.asyncio import Redis

from core import keys
from core.broker.scripts import Script
from core.claims import barred_until
from core.config import SEGMENT_NAME, Settings
from core.faults import Fault, fault_point
from core.identity import crew_of
from core.telemetry import log_extra

log = logging.getLogger(__name__)

#: Largest number of records examined in one call.
CHUNK: Final = 500

#: Seconds within which every record is examined once.
SWEEP_S: Final = 30.0

#: Largest number of calls for the sweep at a stop.
WHOLE_CALLS: Final = 20

Unlink = Callable[[Collection[str]], Awaitable[None]]


class ResultExpiry:
    """Removes records from the sorted set of result segments of one namespace."""

    def __init__(
        self,
        redis: Redis,
        scripts: Mapping[str, Script],
        settings: Settings,
        namespace: str,
        unlink: Unlink,
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._settings = settings
        self._segments = keys.segments(namespace)
        self._clock, self._crew = f"{namespace} clock", crew_of(settings.queues, namespace).name
        self._unlink = unlink
        self._cursor = b"0"
        self._swept_at = time.monotonic()

    async def tick(self) -> int:
        """Advance the namespace's clock, by which results expire; returns its unix seconds."""
        longest_s = max(60, 2 * self._settings.reap_interval_s)
        return int(
            await self._scripts["tick"](
                clock=self._clock, longest_s=int(longest_s), crew=self._crew
            )
        )

    async def run(self, now: int) -> None:
        """Remove everything that is due at `now`, a time of the namespace's clock."""
        await self._redis.zremrangebyscore(self._segments, -now, "(0")
        while due := cast(
            "list[bytes]",
            await self._redis.zrangebyscore(self._segments, 0, now, start=0, num=CHUNK),
        ):
            for member in due:
                await self._expire(member, now)
        await self._sweep_part()

    async def _expire(self, member: bytes, now: int) -> None:
        segment, _, request_id = member.decode("utf-8", "replace").partition(" ")
        if not SEGMENT_NAME.fullmatch(segment):
            log.error("%r in %s is no record of a result: removed", member, self._segments)
            await self._redis.zrem(self._segments, member)
            return
        if not await self._scripts["expire"](
            segments=self._segments,
            result=keys.result(request_id),
            member=member,
            segment=segment,
            now=now,
        ):
            return
        fault_point(Fault.EXPIRED)
        await self._unlink([segment])
        await self._scripts["retire"](
            segments=self._segments, member=member, score=barred_until(self._settings.result_ttl_s)
        )
        log.info(
            "segment %s of request %s: nobody fetched it",
            segment,
            request_id,
            extra=log_extra(request_id),
        )

    async def sweep_whole(self) -> None:
        """Drop all records of fetched results, up to a limit of calls."""
        self._cursor = b"0"
        await self._sweep(WHOLE_CALLS)

    async def _sweep_part(self) -> None:
        """Drop records of fetched results, in the part of the set that is due now."""
        since_s = time.monotonic() - self._swept_at
        self._swept_at = time.monotonic()
        count = int(await self._redis.zcard(self._segments))
        await self._sweep(max(4, int(count / CHUNK * since_s / SWEEP_S) + 1))

    async def _sweep(self, calls: int) -> None:
        """Continue the sweep by so many calls; it ends early at the end of the set."""
        for _ in range(calls):
            self._cursor = await self._scripts["sweep"](
                segments=self._segments,
                cursor=self._cursor,
                count=CHUNK,
                result_prefix=keys.result(""),
            )
            if self._cursor == b"0":
                return
            await asyncio.sleep(0)
