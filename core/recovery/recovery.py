"""Recovery loop: dead workers' jobs, unfetched results, dead jobs, orphaned crews.

A pass may die at any point, and the next one continues. Every step is idempotent, and two workers
may run it at the same time.

A worker that was only slow may write a result for a job that was taken from it, and die before it
learns that it cannot commit it. Such results are found by the prefix of their names, which was
barred when the job was taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Collection
from typing import Final, cast

from core import keys
from core.broker.connection import Link, async_client
from core.broker.dead_job import DeadJob
from core.broker.redis_errors import REDIS_ERRORS, is_out_of_memory
from core.broker.scripts import load_scripts
from core.config import Settings
from core.contract import is_result_name
from core.errors import SharedMemoryRefusal
from core.identity import Identity, crew_of
from core.pixels import shm
from core.recovery.dead_expiry import DeadExpiry
from core.recovery.expiry import ResultExpiry, Unlink
from core.recovery.orphans import KnownCrew, Orphans
from core.recovery.reaping import Reaper, start_of
from core.recovery.visibility import ShmVisibility

log = logging.getLogger(__name__)

#: Largest number of entries read at once.
CHUNK: Final = 500

#: Seconds for which unfinished submissions are kept.
SUBMISSION_TTL_S: Final = 86_400

#: Passes between two scans of all keys in Redis, which take longer than the rest of a pass.
PASSES_PER_SEARCH: Final = 6


class Recovery:
    """Recovers one namespace every REAP_INTERVAL_S; one worker of it at a time does so."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        link: Link,
        visibility: ShmVisibility | None = None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._link = link
        self._visibility = visibility
        self._redis = async_client(settings.redis_url)
        self._scripts = load_scripts(self._redis)
        self._lease = keys.reaper(identity.namespace)
        self._segments = keys.segments(identity.namespace)
        self._crew = crew = crew_of(settings.queues, identity.namespace, identity.host)
        self._reaper = Reaper(self._redis, self._scripts, settings, crew, True)
        self._results = ResultExpiry(
            self._redis, self._scripts, settings, identity.namespace, self._unlink
        )
        # Three searches, each with a place of its own in the list: for dead jobs of this crew, and
        # of orphaned crews whose inputs may be here, or are elsewhere.
        self._dead = self._dead_expiry(self._unlink)
        self._nearby_dead = self._dead_expiry(self._unlink)
        self._orphaned_dead = self._dead_expiry(_leave)
        self._orphans = Orphans(self._redis, self._scripts, settings, crew, self._drop_dead_of)
        self._passes = 0

    async def run(self) -> None:
        """Recover at intervals, until cancelled."""
        interval_s = self._settings.reap_interval_s
        redis_was_away = False
        while True:
            try:
                shm.check_writable()  # else nothing could be unlinked
                if await self._take_lease():
                    if redis_was_away:  # heartbeats may have expired: let living workers renew them
                        await asyncio.sleep(2 * self._settings.heartbeat_interval_s)
                        redis_was_away = False
                    await self.recover()
            except REDIS_ERRORS as error:
                self._link.down("recovery", error)
                # Pinged from now on, so that the outage does not last until the next pass.
                await self._link.repeat_until_answered(lambda _: self._redis.ping())
                self._link.up("recovery")
                redis_was_away = True
            except SharedMemoryRefusal as refusal:
                log.debug("recovery is left to others: %s", refusal)
            except Exception:
                log.exception("recovery failed")
            # Less than the interval, which is the upper bound of the time until a recovery.
            await asyncio.sleep(interval_s * random.uniform(0.4, 0.8))  # noqa: S311 - no secret

    async def recover(self) -> None:
        """One pass of everything."""
        if self._passes % PASSES_PER_SEARCH == 0:
            await self._find_forgotten()
        self._passes += 1
        now = await self._results.tick()
        for member in await self._reaper.members():
            if member != self._identity.worker:
                await self._reaper.reap(member)
        await self._remove_late_results()
        await self._results.run(now)
        await self.recover_other_crews()
        await self._dead.run(self._is_due_here, now)

    async def give_back_own(self) -> None:
        """Put this worker's unfinished jobs back, without an attempt, and remove its results.

        To be called when its heartbeat has ended.
        """
        claims = keys.claims(self._identity.worker)
        fields = cast("list[bytes]", await self._redis.hkeys(claims))
        if working := [name for name in fields if name.endswith(b":work")]:
            # Another reaper may be faster, and would add an attempt to jobs marked as worked on.
            await self._redis.hdel(claims, *working)
        await self._redis.delete(keys.heartbeat(self._identity.worker))
        await self._reaper.reap(self._identity.worker, counted=False)

    async def tidy(self) -> None:
        """Drop the records of fetched results, at a clean stop."""
        await self._results.sweep_whole()

    async def close(self) -> None:
        """Give up the lease, so that others can reap at once, and close the connection."""
        with contextlib.suppress(*REDIS_ERRORS):
            if await self._redis.get(self._lease) == self._identity.worker.encode():
                await self._redis.delete(self._lease)
            await self._redis.aclose()

    async def _take_lease(self) -> bool:
        # Only to reduce load on the server: every step may run twice at the same time. It expires
        # before the next pass, which any worker of the namespace may make.
        ttl_ms = max(1, int(self._settings.reap_interval_s * 300))
        try:
            return bool(
                await self._redis.set(self._lease, self._identity.worker, nx=True, px=ttl_ms)
            )
        except REDIS_ERRORS as error:
            if is_out_of_memory(error):
                return True  # a pass frees memory
            raise

    async def _find_forgotten(self) -> None:
        """Add workers that have jobs to the set of workers again, if they were removed.

        A stalled network may deliver a dead worker's last claim after the worker was recovered.
        """
        with contextlib.suppress(*REDIS_ERRORS):  # a full server: the next search does it
            await self._orphans.note_older()
            await self._forget_old_submissions()
        crews = [self._crew, *(known.crew for known in await self._orphans.known())]
        async for key in self._redis.scan_iter(keys.LISTS_OF_WORKERS, 1000, "list"):
            worker = key.decode("utf-8", "replace").split(":")[2]
            if crew := next((crew for crew in crews if crew.has(worker)), None):
                with contextlib.suppress(*REDIS_ERRORS):  # the same
                    await self._redis.sadd(keys.workers(crew.namespace), worker)

    async def _forget_old_submissions(self) -> None:
        """Drop submissions whose jobs were removed by hand, or lost by at-most-once delivery."""
        cursor = b"0"
        while True:
            cursor = await self._scripts["purge"](
                cursor=cursor, count=CHUNK, kept_s=SUBMISSION_TTL_S
            )
            if cursor == b"0":
                return

    async def _remove_late_results(self) -> None:
        """Unlink results that dead workers wrote for jobs that had been taken from them."""
        starts: dict[str, str] = {}
        offset = 0
        while barred := cast(
            "list[bytes]",
            await self._redis.zrangebyscore(self._segments, "-inf", "(0", start=offset, num=CHUNK),
        ):
            offset += len(barred)
            marks = (member.decode("utf-8", "replace").partition(" ") for member in barred)
            starts.update({name: request_id for name, _, request_id in marks if name.endswith("-")})
        if not starts:
            return
        for name in await asyncio.to_thread(shm.names):
            start = start_of(name)
            if start not in starts or not is_result_name(name, self._settings.shm_name_prefix):
                continue
            worker = start[len(self._settings.shm_name_prefix) :].rsplit("-", 2)[0]
            if not await self._redis.exists(keys.heartbeat(worker)):
                await self._reaper.remove_uncommitted(name, starts[start])

    async def recover_other_crews(self) -> None:
        """Dissolve orphaned crews, and find out whether one elsewhere serves the same queues."""
        visibility = self._visibility
        await self._orphans.run(has_seen_segments=visibility is not None and visibility.is_proven)
        if visibility is not None:
            visibility.update(
                has_rivals=self._orphans.has_rivals, known_gone=self._orphans.known_gone
            )

    async def _drop_dead_of(self, known: KnownCrew) -> bool:
        """Drop the dead jobs of a crew; whether the search reached the end of the list.

        Their inputs may be here, unless the crew has seen segments in another shared memory.
        """
        crew = known.crew
        may_be_here = crew.namespace == self._identity.namespace or not known.has_seen_segments
        expiry = self._nearby_dead if may_be_here else self._orphaned_dead
        return await expiry.run(
            lambda job: job.namespace == crew.namespace and job.queue in crew.queues.values(),
            math.inf,
        )

    def _dead_expiry(self, unlink: Unlink) -> DeadExpiry:
        return DeadExpiry(self._redis, self._scripts, self._settings, unlink)

    def _is_due_here(self, job: DeadJob) -> bool:
        """Whether a dead job is of this crew, so that this worker drops it once it expires."""
        is_ours = job.queue in self._crew.queues.values()
        return is_ours and job.namespace == self._identity.namespace

    async def _unlink(self, names: Collection[str]) -> None:
        await asyncio.to_thread(shm.unlink_all, names, self._settings.uids)


async def _leave(names: Collection[str]) -> None:
    """Unlink nothing: these names belong to segments of another shared memory."""
