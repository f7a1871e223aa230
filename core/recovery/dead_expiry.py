"""Expiry of dead jobs: drops them from the dead-letter list and unlinks their inputs."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, cast

from redis.asyncio import Redis

from core import keys
from core.broker.dead_job import (
    CHUNK_BYTES,
    HEAD_BYTES,
    DeadJob,
    heads,
    is_unreadable_head,
    parse_entry,
)
from core.broker.scripts import Script
from core.config import Settings
from core.contract import allowed_inputs
from core.faults import Fault, fault_point
from core.telemetry import log_extra

log = logging.getLogger(__name__)

#: Largest number of entries read at once. Parsing them blocks the event loop.
CHUNK: Final = 100

#: A pass ends after this many chunks without a job to drop, or after this many seconds.
IDLE_CHUNKS: Final = 10
PASS_S: Final = 5.0


class DeadExpiry:
    """Searches the dead-letter list for expired jobs, a few chunks per pass, and drops them.

    A pass continues where the previous one ended, and starts over at the end of the list.
    """

    def __init__(
        self,
        redis: Redis,
        scripts: Mapping[str, Script],
        settings: Settings,
        unlink: Callable[[Collection[str]], Awaitable[None]],
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._unlink = unlink
        self._heads, self._drop = scripts["heads"], scripts["drop"]
        self._index = 0

    async def run(self, is_mine: Callable[[DeadJob], bool], now: float) -> bool:
        """One pass: drop the jobs that `is_mine` selects and that died DEAD_TTL_S before `now`.

        `now` is in unix seconds. Returns whether the pass reached the end of the list.
        """
        latest = now - self._settings.dead_ttl_s
        deadline = time.monotonic() + PASS_S
        idle = 0
        while idle < IDLE_CHUNKS and time.monotonic() < deadline:
            jobs = await self._chunk()
            if not jobs:
                self._index = 0
                return True
            # An entry of another program has `at` = 0.
            due = [job for job in jobs if job and 0 < job.at <= latest and is_mine(job)]
            if await self._remove(due):
                self._index += len(jobs) - len(due)
            idle = 0 if due else idle + 1
        return False

    async def _chunk(self) -> list[DeadJob | None]:
        """The jobs of the next entries; None for an entry of another program."""
        reply = await self._heads(
            first=self._index, count=CHUNK, most_bytes=CHUNK_BYTES, head_bytes=HEAD_BYTES
        )
        jobs = []
        for index, (head, length) in enumerate(heads(reply), self._index):
            data = head
            if is_unreadable_head(head, length):
                entry = cast("bytes | None", await self._redis.lindex(keys.DEAD, index))
                data = entry if entry and len(entry) == length else head
            jobs.append(parse_entry(data, length, index))
        return jobs

    async def _remove(self, due: Sequence[DeadJob]) -> bool:
        """Unlink the inputs of jobs and drop their entries.

        False if an entry was no longer at its index, because others have removed entries.
        """
        if not due:
            return True
        await self._unlink(
            [name for job in due for name in allowed_inputs(job.inputs, self._settings.wire_format)]
        )
        fault_point(Fault.DEAD_EXPIRED)
        # The last one first, so that a removal does not change the indexes of the rest.
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(*self._drop.load)
            for job in reversed(due):
                command = self._drop.command(
                    index=job.place, head=job.head, length=job.entry_length
                )
                pipeline.execute_command(*command)
            _, *outcomes = await pipeline.execute()
        dropped = [
            job for job, outcome in zip(due, reversed(outcomes), strict=True) if outcome == 1
        ]
        for job in dropped:
            request_id = job.request_id or "unknown"
            log.info(
                "the dead job of request %s is dropped", request_id, extra=log_extra(request_id)
            )
        return len(dropped) == len(due)
