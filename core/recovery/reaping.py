"""What one dead worker left, given back: its jobs, its inputs, the results that it did not commit.

A dead worker's jobs are moved in two steps, so that a reaper may die anywhere between them. First
they go to the list of the worker's ghost (its name with a tilde), which the worker does not know:
from then on it cannot commit them. While they are there, exactly the segments that it wrote for
them are uncommitted, and are unlinked. Then they go back to the head of their queues.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from core import keys
from core.broker.queues import LOOK_BYTES
from core.claims import condemned_until
from core.config import LONGEST_MESSAGE, Settings
from core.contract import input_names, request_of, result_name_start
from core.faults import Fault, fault_point
from core.keys import Kind
from core.pixels import shm
from core.telemetry import log_extra, watch

log = logging.getLogger(__name__)

GHOST: Final = "~"


@dataclass(frozen=True, slots=True)
class Crew:
    """Workers of one shared memory that serve the same queues."""

    namespace: str
    kinship: str
    queues: Mapping[Kind, str]
    host: str

    @property
    def name(self) -> str:
        """What it is called in Redis."""
        return f"{self.namespace} {self.kinship}"

    def has(self, worker: str) -> bool:
        """Whether a worker, or its ghost, belongs to it."""
        return worker.rpartition("-")[2].startswith(self.kinship)


class Reaper:
    """Takes over what dead workers of one crew left.

    `is_here` says that their shared memory is the one that this process sees. Otherwise it cannot
    look at their segments, which are usually gone.
    """

    def __init__(
        self,
        redis: Redis,
        scripts: Mapping[str, Any],
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
        """The workers that the crew has or had, and ghosts."""
        members: Any = await self._redis.smembers(self._workers)
        return sorted(name for member in members if self._crew.has(name := member.decode()))

    async def reap(self, worker: str, *, counted: bool = True) -> list[str]:
        """Give back what a worker left, if it is dead; the sha1s of its jobs.

        If `counted`, those that it was working on have an attempt more.
        """
        if await self._redis.exists(keys.heartbeat(worker)):
            return []
        owner = worker.removesuffix(GHOST)
        ghost = owner + GHOST
        if worker != ghost and not await self._fence(owner, ghost):
            return []
        found = []
        for kind in Kind:
            found += await self._give_back(owner, ghost, kind, counted)
        await self._finish_cleanup(owner)
        for name in (ghost, owner):
            left = [keys.processing(name, kind) for kind in Kind] + [keys.cleanup(name)]
            await self._scripts["forget"](
                [self._workers, keys.heartbeat(name), keys.claims(name), *left], [name]
            )
        return found

    async def condemn(self, name: str, request_id: str) -> bool:
        """Have a segment never be committed; False if it was. Or mark the start of its name."""
        member, until = f"{name} {request_id}", condemned_until(self._settings)
        return bool(await self._scripts["condemn"]([self._segments], [member, until]))

    async def remove_uncommitted(self, name: str, request_id: str) -> None:
        """Unlink a segment unless it was committed.

        That one belongs to an equal message, which was sent twice. Any other is condemned first:
        should its worker live, it must not commit what is gone.
        """
        if await self.condemn(name, request_id):
            fault_point(Fault.BARRED)
            await self._unlink([name])

    async def _fence(self, owner: str, ghost: str) -> bool:
        lists = []
        for kind in Kind:
            lists += [keys.processing(owner, kind), keys.processing(ghost, kind)]
        moved = await self._scripts["fence"](
            [
                keys.heartbeat(owner),
                self._workers,
                keys.claims(owner),
                keys.claims(ghost),
                *lists,
            ],
            [ghost],
        )
        if moved > 0:
            fault_point(Fault.FENCED)
        return bool(moved >= 0)

    async def _give_back(self, owner: str, ghost: str, kind: Kind, counted: bool) -> list[str]:
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
                if request:  # otherwise no worker writes anything for it
                    starts[result_name_start(self._settings, owner, payload)] = request[0]
            for start, request_id in starts.items():
                await self.condemn(start, request_id)
            for name in await asyncio.to_thread(shm.names):
                start = start_of(name)
                if start in starts:
                    await self.remove_uncommitted(name, starts[start])
        told: list[Any] = []
        for sha1, request, _ in jobs:
            told += [sha1, request[0] if request else ""]
        count = await self._scripts["requeue"](
            [
                lost,
                self._crew.queues[kind],
                keys.ATTEMPTS,
                keys.claims(ghost),
                keys.SUBMISSIONS,
                keys.CREWS,
            ],
            [int(counted), f"{self._crew.namespace} fault", *told],
        )
        fault_point(Fault.REQUEUED)
        watch.jobs_recovered(kind, count)
        requests = [request[0] for _, request, _ in jobs if request]
        log.warning(
            "recovered %d %s jobs of the %s worker %s: %s",
            count,
            kind,
            "dead" if counted else "ended",
            owner,
            ", ".join(requests),
            extra=log_extra(*requests),
        )
        return [sha1 for sha1, _, _ in jobs]

    async def _payloads(self, place: str, longest: int) -> Any:
        """Pairs of sha1 and payload in a list; of one that is longer only the first KiB."""
        index = 0
        while found := await self._scripts["look"]([place], [index, LOOK_BYTES, longest]):
            index += len(found)
            for _, sha1, content in found:
                yield sha1.decode(), content

    async def _finish_cleanup(self, worker: str) -> None:
        key = keys.cleanup(worker)
        if not self._is_here:
            await self._redis.delete(key)
            return
        # Their worker took them for short enough, by a limit that may be another one.
        while found := [payload async for _, payload in self._payloads(key, LONGEST_MESSAGE)]:
            for payload in found:
                await self._unlink(input_names(payload, self._settings))
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
    """What a result's name has in common with all that its worker writes for the same payload."""
    return name.rpartition("-")[0] + "-"
