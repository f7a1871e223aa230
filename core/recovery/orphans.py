"""Recovery of orphaned crews: those without a living worker.

A crew is the workers of one namespace that serve the same queues; Redis has a note of each. A dead
worker is recovered by its own crew. A crew without a living worker for ORPHAN_AFTER_S (or, after a
reboot of its host, at once) is dissolved by any other crew: its jobs go back to their queues. A
crew that serves the same queues in another namespace also drops its dead jobs and its results. Any
other crew drops these once they have expired.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from core import keys
from core.broker.scripts import Script
from core.config import Settings
from core.identity import Crew, crew_of
from core.keys import Kind
from core.recovery.reaping import Reaper
from core.telemetry.logs import number_of

log = logging.getLogger(__name__)

#: Entries removed in one call.
CHUNK: Final = 500

#: Largest number of a crew's jobs whose segments are noted as gone.
MOST_GONE: Final = 1000

#: Length of the boot id at the start of a namespace.
_BOOT_ID: Final = 36


@dataclass(frozen=True, slots=True)
class KnownCrew:
    """A crew as noted in Redis. `seen` is in unix seconds of Redis' clock.

    `has_seen_segments`: a worker of it has found a job's segment in its shared memory.
    """

    crew: Crew
    seen: float
    has_seen_segments: bool
    members: tuple[str, ...] = ()
    is_alive: bool = False


def parse_crews(noted: Mapping[bytes, bytes]) -> list[KnownCrew]:
    """The crews in the hash of that name; entries of other programs are skipped."""
    crews = []
    for name, value in noted.items():
        namespace, _, kin = name.decode("utf-8", "replace").partition(" ")
        if not re.fullmatch(r"[0-9a-f]{4}", kin):
            continue  # not a crew
        try:
            description = json.loads(value)
            queues = {kind: str(description[str(kind)]) for kind in Kind}
            crew = Crew(namespace, kin, queues, str(description["host"]))
            seen = float(noted.get(name + b" seen", 0))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        crews.append(KnownCrew(crew, seen, name + b" sighted" in noted))
    return crews


class Orphans:
    """Recovers the crews that have no living worker."""

    def __init__(
        self,
        redis: Redis,
        scripts: Mapping[str, Script],
        settings: Settings,
        crew: Crew,
        drop_dead: Callable[[KnownCrew], Awaitable[bool]],
    ) -> None:
        """`crew` is that of this worker.

        `drop_dead` drops a crew's dead jobs, and returns whether it has reached the list's end.
        """
        self._drop_dead = drop_dead
        self._redis = redis
        self._scripts = scripts
        self._settings = settings
        self._crew = crew
        #: Whether living workers of another namespace serve the same queues.
        self.has_rivals = False
        #: sha1s of jobs whose segments are known to be gone.
        self.known_gone: set[str] = set()

    async def run(self, *, has_seen_segments: bool) -> None:
        """One pass: note which crews are alive, and dissolve those that are orphaned."""
        if has_seen_segments:
            await self._scripts["note"](crew=self._crew.name, what="sighted", value=1)
        now = float((await self._redis.time())[0])
        crews = [await self._with_members(known) for known in await self.known()]
        self.has_rivals = any(
            known.is_alive
            and not self._is_here(known.crew)
            and {*known.crew.queues.values()} & {*self._crew.queues.values()}
            for known in crews
        )
        for known in crews:
            if known.is_alive or known.crew.name == self._crew.name:
                await self._scripts["note"](crew=known.crew.name, what="seen", value=int(now))
            elif self._is_orphaned(known, now):
                await self._dissolve(known, crews, now)

    async def note_older(self) -> None:
        """Note the crews of earlier versions, which did not note themselves."""
        noted = {known.crew.namespace for known in await self.known()}
        async for key in self._redis.scan_iter(keys.workers("*"), count=1000):
            namespace = key.decode("utf-8", "replace").removeprefix(keys.workers(""))
            if namespace in noted or namespace == self._crew.namespace:
                continue
            members = await self._reaper(crew_of(self._settings.queues, namespace)).members()
            if members:
                crew = crew_of(self._settings.queues, namespace, host=members[0].rsplit("-", 2)[0])
                now = int((await self._redis.time())[0])
                notes: dict[Any, Any] = {crew.name: crew.description, f"{crew.name} seen": now}
                await self._redis.hset(keys.CREWS, mapping=notes)

    async def known(self) -> list[KnownCrew]:
        """The crews that are noted in Redis."""
        noted: Any = await self._redis.hgetall(keys.CREWS)
        return parse_crews(noted)

    async def _with_members(self, known: KnownCrew) -> KnownCrew:
        members = await self._reaper(known.crew).members()
        beats = [keys.heartbeat(member) for member in members]
        is_alive = bool(beats and await self._redis.exists(*beats))
        return KnownCrew(known.crew, known.seen, known.has_seen_segments, tuple(members), is_alive)

    def _is_here(self, crew: Crew) -> bool:
        """Whether a crew sees this worker's shared memory."""
        return crew.namespace == self._crew.namespace

    def _is_orphaned(self, known: KnownCrew, now: float) -> bool:
        own_boot = self._crew.namespace[:_BOOT_ID]
        has_rebooted = (
            known.crew.host == self._crew.host and known.crew.namespace[:_BOOT_ID] != own_boot
        )
        return has_rebooted or now - known.seen > self._settings.orphan_after_s

    async def _dissolve(self, known: KnownCrew, crews: Collection[KnownCrew], now: float) -> None:
        crew = known.crew
        is_here = self._is_here(crew)
        reaper = self._reaper(crew)
        recovered: list[str] = []
        for worker in known.members:
            recovered += await reaper.reap(worker, counted=False)
        if known.has_seen_segments and not is_here:
            self.known_gone.update(recovered[:MOST_GONE])
        if remaining := await reaper.members():
            log.debug("%s still has %s", crew.name, ", ".join(remaining))
            return  # the next pass continues
        # The results of other queues may still be fetched, and their dead jobs be retried: perhaps
        # that crew is only switched off.
        age_s, settings = now - known.seen, self._settings
        is_expired = age_s > (settings.dead_ttl_s if is_here else settings.result_ttl_s)
        if not (is_expired or (self._serves_same(crew) and not is_here)):
            if recovered:
                self._log_dissolved(crew, len(recovered))
            return
        if not await self._drop_dead(known):
            return  # the next pass continues
        others = [
            other for other in crews if other.crew.namespace == crew.namespace and other != known
        ]
        if not (others or is_here):
            await self._abandon(crew.namespace)
        names = [crew.name, f"{crew.name} seen", f"{crew.name} sighted"]
        await self._redis.hdel(keys.CREWS, *names)
        self._log_dissolved(crew, len(recovered))

    def _log_dissolved(self, crew: Crew, count: int) -> None:
        log.warning(
            "dissolved the workers of %s on %s, none of which is alive: back in %s: %s",
            crew.namespace,
            crew.host,
            " and ".join(crew.queues.values()),
            number_of(count, "job"),
        )

    def _serves_same(self, crew: Crew) -> bool:
        return {*crew.queues.values()} == {*self._crew.queues.values()}

    async def _abandon(self, namespace: str) -> None:
        """Remove everything in Redis about a namespace that is gone."""
        segments = keys.segments(namespace)
        while await self._scripts["abandon"](
            segments=segments, most=CHUNK, result_prefix=keys.result("")
        ):
            pass
        await self._redis.delete(segments, keys.reaper(namespace))
        await self._redis.hdel(keys.CREWS, f"{namespace} clock", f"{namespace} fault")

    def _reaper(self, crew: Crew) -> Reaper:
        return Reaper(self._redis, self._scripts, self._settings, crew, self._is_here(crew))
