"""Recovery of one dead worker: its jobs, its cleanup list and its uncommitted results.

A dead worker's jobs are moved in two steps, so that a reaper may die at any point. First they are
moved to the list of the worker's ghost (its name with a tilde). The worker does not know that list,
so from then on it cannot commit them: it is fenced. While they are there, all segments that it
wrote for them are uncommitted and are unlinked. Then the jobs go back to the head of their queues.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from core import keys
from core.broker.queues import LOOK_BYTES
from core.broker.redis_errors import passes
from core.broker.scripts import Script
from core.claims import barred_until
from core.config import LONGEST_MESSAGE, Settings
from core.contract import input_names, request_of, result_name_start
from core.faults import Fault, fault_point
from core.identity import Crew
from core.keys import Kind
from core.pixels import shm
from core.telemetry import log_extra, watch
from core.telemetry.logs import number_of

log = logging.getLogger(__name__)

GHOST: Final = "~"


class Reaper:
    """Recovers the dead workers of one crew.

    `is_here`: this process sees their shared memory. Otherwise their segments are left alone; they
    are usually gone.
    """

    def __init__(
        self,
        redis: Redis,
        scripts: Mapping[str, Script],
        settings: Settings,
        crew: Crew,
        is_here: bool,
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._settings = settings
        self._crew = crew
        self._is_here = is_here
        self._uids = settings.uids
        self._workers = keys.workers(crew.namespace)
        self._segments = keys.segments(crew.namespace)

    async def members(self) -> list[str]:
        """The crew's workers, dead ones and ghosts included."""
        members: Any = await self._redis.smembers(self._workers)
        names = (member.decode("utf-8", "replace") for member in members)
        return sorted(name for name in names if self._crew.has(name))

    async def reap(self, worker: str, *, counted: bool = True) -> list[str]:
        """Recover a worker if it is dead; returns the sha1s of its jobs.

        If `counted`, an attempt is added to those that it was working on.
        """
        if await self._redis.exists(keys.heartbeat(worker)):
            return []
        try:
            return await self._recover(worker, counted)
        except ResponseError as error:
            if passes(error):
                raise
            # A fault of a dead worker's keys must not end this worker, too.
            log.error(
                "the jobs of the dead worker %s cannot be recovered: %s (a key with its name, "
                "inpainting:…:%s…, is of another program: rename or delete it)",
                worker,
                error,
                worker,
            )
            return []

    async def _recover(self, worker: str, counted: bool) -> list[str]:
        owner = worker.removesuffix(GHOST)
        ghost = owner + GHOST
        if worker != ghost and not await self._fence(owner, ghost):
            return []
        recovered = []
        for kind in Kind:
            recovered += await self._requeue(owner, ghost, kind, counted)
        await self._finish_cleanup(owner)
        for name in (ghost, owner):
            await self._scripts["forget"](
                workers=self._workers,
                heartbeat=keys.heartbeat(name),
                claims=keys.claims(name),
                lists=[*(keys.processing(name, kind) for kind in Kind), keys.cleanup(name)],
                worker=name,
            )
        return recovered

    async def bar(self, name: str, request_id: str) -> bool:
        """Bar a segment, or a prefix of names, from being committed; False if it was committed."""
        barred = await self._scripts["bar"](
            segments=self._segments,
            member=f"{name} {request_id}",
            score=barred_until(self._settings.result_ttl_s),
        )
        return bool(barred)

    async def remove_uncommitted(self, name: str, request_id: str) -> None:
        """Unlink a segment unless it was committed.

        A committed one belongs to a copy of the message, which was sent twice. Any other is barred
        first, so that its worker, if it is still alive, cannot commit a segment that is gone.
        """
        if await self.bar(name, request_id):
            fault_point(Fault.BARRED)
            await self._unlink([name])

    async def _fence(self, owner: str, ghost: str) -> bool:
        lists = []
        for kind in Kind:
            lists += [keys.processing(owner, kind), keys.processing(ghost, kind)]
        moved = await self._scripts["fence"](
            heartbeat=keys.heartbeat(owner),
            workers=self._workers,
            claims=keys.claims(owner),
            ghost_claims=keys.claims(ghost),
            lists=lists,
            ghost=ghost,
        )
        if moved > 0:
            fault_point(Fault.FENCED)
        return bool(moved >= 0)

    async def _requeue(self, owner: str, ghost: str, kind: Kind, counted: bool) -> list[str]:
        lost = keys.processing(ghost, kind)
        jobs = [
            (sha1, request_of(payload), payload)
            async for sha1, payload in self._payloads(lost, self._settings.max_message_bytes)
        ]
        if not jobs:
            return []
        if self._is_here:
            starts = {}
            for _, request, payload in jobs:
                if request:  # else no worker writes a result for it
                    start = result_name_start(owner, payload, prefix=self._settings.shm_name_prefix)
                    starts[start] = request[0]
            for start, request_id in starts.items():
                await self.bar(start, request_id)
            for name in await asyncio.to_thread(shm.names):
                start = start_of(name)
                if start in starts:
                    await self.remove_uncommitted(name, starts[start])
        listed: list[str] = []
        for sha1, request, _ in jobs:
            listed += [sha1, request[0] if request else ""]
        count = await self._scripts["requeue"](
            lost=lost,
            queue=self._crew.queues[kind],
            ghost_claims=keys.claims(ghost),
            counts=int(counted),
            fault=f"{self._crew.namespace} fault",
            jobs=listed,
        )
        fault_point(Fault.REQUEUED)
        watch.jobs_recovered(kind, count)
        requests = [request[0] for _, request, _ in jobs if request]
        log.warning(
            "recovered %s of the %s worker %s: %s",
            number_of(count, f"{kind} job"),
            "dead" if counted else "ended",
            owner,
            ", ".join(requests),
            extra=log_extra(*requests),
        )
        return [sha1 for sha1, _, _ in jobs]

    async def _payloads(self, place: str, longest: int) -> Any:
        """Pairs of sha1 and payload in a list; only the first KiB of one above `longest` bytes."""
        index = 0
        while chunk := await self._scripts["look"](
            list=place, first=index, most_bytes=LOOK_BYTES, longest=longest
        ):
            index += len(chunk)
            for _, sha1, content in chunk:
                yield sha1.decode(), content

    async def _finish_cleanup(self, worker: str) -> None:
        key = keys.cleanup(worker)
        if not self._is_here:
            await self._redis.delete(key)
            return
        # Not this worker's MAX_MESSAGE_BYTES: the dead worker's may have been larger.
        while payloads := [payload async for _, payload in self._payloads(key, LONGEST_MESSAGE)]:
            for payload in payloads:
                await self._unlink(input_names(payload, self._settings.wire_format))
                fault_point(Fault.CLEANUP_UNLINKED)
                await self._redis.lrem(key, 1, payload)
                request = request_of(payload) or ("unknown", "")
                log.info(
                    "cleaned up after the dead worker %s: request %s",
                    worker,
                    request[0],
                    extra=log_extra(request[0]),
                )

    async def _unlink(self, names: Collection[str]) -> None:
        await asyncio.to_thread(shm.unlink_all, names, self._uids)


def start_of(name: str) -> str:
    """The part of a result's name that all results of its worker for the same payload share."""
    return name.rpartition("-")[0] + "-"
