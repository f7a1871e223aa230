"""Clearing up after others: dead workers' jobs, unread results, the inputs of dead jobs.

A dead worker's jobs go a way of two steps, so that a reaper may die anywhere on it. First they
are moved to the list of the worker's ghost (its name with a tilde), which the worker does not
know: from then on it cannot commit them. While they are there, exactly the segments that it wrote
for them are uncommitted, and are unlinked. Then they go back to the head of their queues.

A worker that was only slow may write a result for such a job later, and die before it is told
that nobody wants it. A mark has that found too: in the set of segments, the start of its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Collection
from typing import cast

from core import keys, shm
from core.config import Settings
from core.connection import REDIS_ERRORS, Link, async_client, load_scripts
from core.contract import input_names, is_result_name, request_of, result_name_start
from core.dead_job import parse_entry
from core.faults import Fault, reach
from core.identity import Identity, is_kin
from core.keys import Kind
from core.queues import condemned_until
from core.telemetry import about, watch

log = logging.getLogger(__name__)

GHOST = "~"

#: Most entries looked at in one go.
CHUNK = 500

#: Passes between two searches through all of Redis' keys, which take longer than the rest.
PASSES_PER_SEARCH = 6


class Recovery:
    """Looks after one namespace, every REAP_INTERVAL_S, one worker at a time."""

    def __init__(self, settings: Settings, identity: Identity, link: Link) -> None:
        self._settings = settings
        self._identity = identity
        self._link = link
        self._uids = settings.uids
        self._redis = async_client(settings)
        self._scripts = load_scripts(self._redis)
        self._turn = keys.reaper(identity.namespace)
        self._workers = keys.workers(identity.namespace)
        self._segments = keys.segments(identity.namespace)
        self._passes = 0
        self._dead_seen = 0

    async def run(self) -> None:
        """Recover now and then at intervals, until cancelled."""
        interval_s = self._settings.reap_interval_s
        was_away = False
        while True:
            try:
                if await self._is_my_turn():
                    if was_away:  # heartbeats may have expired meanwhile: the living renew them
                        await asyncio.sleep(2 * self._settings.heartbeat_interval_s)
                        was_away = False
                    await self.recover()
            except REDIS_ERRORS as error:
                self._link.down(error)
                was_away = True
            except Exception:
                log.exception("recovery failed")
            # Always below the interval, so that it bounds the time until a job is recovered.
            await asyncio.sleep(interval_s * random.uniform(0.4, 0.8))  # noqa: S311 - no secret

    async def recover(self) -> None:
        """One pass over everything that may be left."""
        if self._passes % PASSES_PER_SEARCH == 0:
            await self._find_forgotten()
        self._passes += 1
        for member in await self._members():
            if member != self._identity.worker:
                await self._reap(member)
        await self._remove_late_results()
        await self._expire_results()
        await self._expire_dead()

    async def close(self) -> None:
        """Let others reap at once, and close the connection."""
        with contextlib.suppress(*REDIS_ERRORS):
            if await self._redis.get(self._turn) == self._identity.worker.encode():
                await self._redis.delete(self._turn)
            await self._redis.aclose()

    async def _is_my_turn(self) -> bool:
        # Only to spare the server: every step may be done by two at once.
        ttl_ms = max(1, int(self._settings.reap_interval_s * 300))
        return bool(await self._redis.set(self._turn, self._identity.worker, nx=True, px=ttl_ms))

    async def _members(self) -> list[str]:
        members = cast("set[bytes]", await self._redis.smembers(self._workers))
        return sorted(member.decode() for member in members)

    async def _find_forgotten(self) -> None:
        """Enter workers that hold jobs and were struck off into the set again.

        A network that hangs may deliver a dead worker's last claim after all that it left was
        recovered.
        """
        pattern, count = keys.processing("*", Kind.LONG)[: -len(Kind.LONG)] + "*", 1000
        async for key in self._redis.scan_iter(pattern, count=count):
            worker = key.decode().split(":")[2]
            if is_kin(worker, self._settings, self._identity.namespace):
                await self._redis.sadd(self._workers, worker)

    async def _reap(self, worker: str) -> None:
        """Recover what a worker left, if it is dead."""
        if await self._redis.exists(keys.heartbeat(worker)):
            return
        if not is_kin(worker, self._settings, self._identity.namespace):
            log.debug("%s served other queues: left to a worker of those", worker)
            return
        owner = worker.removesuffix(GHOST)
        ghost = owner + GHOST
        if worker != ghost:
            for kind in Kind:
                moved = await self._scripts["fence"](
                    [
                        keys.heartbeat(worker),
                        keys.processing(worker, kind),
                        keys.processing(ghost, kind),
                        self._workers,
                    ],
                    [ghost],
                )
                if moved < 0:
                    return
                if moved:
                    reach(Fault.FENCED)
        for kind in Kind:
            await self._give_back(owner, ghost, kind)
        await self._finish_cleanup(owner)
        for name in (ghost, owner):
            left = [keys.processing(name, kind) for kind in Kind] + [keys.cleanup(name)]
            await self._scripts["forget"]([self._workers, keys.heartbeat(name), *left], [name])

    async def _give_back(self, owner: str, ghost: str, kind: Kind) -> None:
        lost = keys.processing(ghost, kind)
        payloads = cast("list[bytes]", await self._redis.lrange(lost, 0, -1))
        if not payloads:
            return
        starts = {}
        for payload in payloads:
            if request := request_of(payload):  # otherwise no worker writes anything for it
                starts[result_name_start(self._settings, owner, payload)] = request[0]
        for start, request_id in starts.items():
            await self._condemn(start, request_id)
        for name in await asyncio.to_thread(shm.names):
            start = _start_of(name)
            if start in starts:
                await self._remove_uncommitted(name, starts[start])
        count = await self._scripts["requeue"](
            [lost, self._settings.queue(kind), keys.ATTEMPTS], payloads
        )
        reach(Fault.REQUEUED)
        watch.jobs_recovered(kind, count)
        requests = [request[0] for payload in payloads if (request := request_of(payload))]
        log.warning(
            "recovered %d %s jobs of the dead worker %s: %s",
            count, kind, owner, ", ".join(requests), extra=about(*requests),
        )  # fmt: skip

    async def _condemn(self, name: str, request_id: str) -> bool:
        """Have a segment never be committed; False if it was. Or mark the start of its name."""
        member, until = f"{name} {request_id}", condemned_until(self._settings)
        return bool(await self._scripts["condemn"]([self._segments], [member, until]))

    async def _remove_uncommitted(self, name: str, request_id: str) -> None:
        """Unlink a segment unless it was committed.

        That one belongs to an equal message, which was sent twice. Any other is condemned first:
        should its worker live, it must not commit what is gone.
        """
        if await self._condemn(name, request_id):
            reach(Fault.BARRED)
            await self._unlink([name])

    async def _remove_late_results(self) -> None:
        """Unlink what dead workers wrote for jobs that had been taken away from them."""
        condemned = await self._redis.zrangebyscore(self._segments, "-inf", "(0")
        marks = (member.decode().split(" ", 1) for member in cast("list[bytes]", condemned))
        starts = {name: request_id for name, request_id in marks if name.endswith("-")}
        if not starts:
            return
        for name in await asyncio.to_thread(shm.names):
            start = _start_of(name)
            if start not in starts or not is_result_name(name, self._settings):
                continue
            worker = start[len(self._settings.shm_name_prefix) :].rsplit("-", 2)[0]
            if not await self._redis.exists(keys.heartbeat(worker)):
                await self._remove_uncommitted(name, starts[start])

    async def _finish_cleanup(self, worker: str) -> None:
        key = keys.cleanup(worker)
        for payload in cast("list[bytes]", await self._redis.lrange(key, 0, -1)):
            await self._unlink(input_names(payload, self._settings))
            reach(Fault.CLEANUP_UNLINKED)
            await self._redis.lrem(key, 1, cast(str, payload))
            request = request_of(payload) or ("unknown", "")
            log.info(
                "cleaned up after the dead worker %s: request %s",
                worker, request[0], extra=about(request[0]),
            )  # fmt: skip

    async def _expire_results(self) -> None:
        now = int(time.time())
        await self._redis.zremrangebyscore(self._segments, -now, "(0")
        due = await self._redis.zrangebyscore(self._segments, 0, now, start=0, num=CHUNK)
        for member in cast("list[bytes]", due):
            segment, request_id = member.decode().split(" ", 1)
            if await self._scripts["expire"](
                [self._segments, keys.result(request_id)], [member, segment, now]
            ):
                reach(Fault.EXPIRED)
                await self._unlink([segment])
                score = condemned_until(self._settings)
                await self._redis.zadd(self._segments, {member: score}, xx=True)
                log.info(
                    "segment %s of request %s: nobody fetched it",
                    segment, request_id, extra=about(request_id),
                )  # fmt: skip

    async def _expire_dead(self) -> None:
        """Drop dead jobs of this namespace whose time is over, with their inputs.

        A pass looks at a chunk of the list, and the next goes on behind it.
        """
        latest = time.time() - self._settings.dead_ttl_s
        start = self._dead_seen
        chunk = cast("list[bytes]", await self._redis.lrange(keys.DEAD, start, start + CHUNK - 1))
        self._dead_seen = start + len(chunk) if len(chunk) == CHUNK else 0
        for entry in chunk:
            job = parse_entry(entry)
            if job is None or job.namespace != self._identity.namespace:
                continue
            if not 0 < job.at <= latest:  # 0 is that of an entry that somebody else has written
                continue
            await self._unlink(input_names(job.payload, self._settings))
            reach(Fault.DEAD_EXPIRED)
            await self._redis.lrem(keys.DEAD, 1, cast(str, entry))
            self._dead_seen = max(0, self._dead_seen - 1)
            request_id = job.request_id or "unknown"
            log.info("the dead job of request %s is dropped", request_id, extra=about(request_id))

    async def _unlink(self, names: Collection[str]) -> None:
        await asyncio.to_thread(shm.unlink_all, names, self._uids)


def _start_of(name: str) -> str:
    """What a result's name has in common with all that its worker writes for the same payload."""
    return name.rpartition("-")[0] + "-"
