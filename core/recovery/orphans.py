"""What is left of shared memories, and of queues, without a living worker.

Workers of one shared memory that serve the same queues are a crew; Redis has a note of each. A dead
worker's own crew recovers what it left. A crew that has no living worker for ORPHAN_AFTER_S (after
a boot of its host: at once) is dissolved by any other: its jobs go back to their queues. Workers of
the same queues on another shared memory also drop its dead jobs and its results; all others do so
once the time of these is over.
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
from core.config import Settings
from core.identity import kinship
from core.keys import Kind
from core.recovery.reaping import Crew, Reaper

log = logging.getLogger(__name__)

#: Entries removed in one call.
CHUNK: Final = 500

#: Jobs of one worker whose segments are taken for gone; a worker never has more in hand.
MOST_CERTAIN: Final = 1000

#: Length of the boot id with which a namespace begins.
_BOOT_ID: Final = 36


@dataclass(frozen=True, slots=True)
class KnownCrew:
    """A crew as Redis knows it. `seen` is in unix seconds of Redis' clock."""

    crew: Crew
    seen: float
    has_seen_segments: bool
    members: tuple[str, ...] = ()
    is_alive: bool = False


def parse_crews(noted: Mapping[bytes, bytes]) -> list[KnownCrew]:
    """The crews in the hash of that name; what somebody else has written is passed over."""
    found = []
    for name, value in noted.items():
        namespace, _, kin = name.decode("utf-8", "replace").partition(" ")
        if not re.fullmatch(r"[0-9a-f]{4}", kin):
            continue  # something else is noted there
        try:
            about = json.loads(value)
            queues = {kind: str(about[str(kind)]) for kind in Kind}
            crew = Crew(namespace, kin, queues, str(about["host"]))
            seen = float(noted.get(name + b" seen", 0))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        found.append(KnownCrew(crew, seen, name + b" sighted" in noted))
    return found


class Orphans:
    """Looks after the crews that have no living worker."""

    def __init__(
        self,
        redis: Redis,
        scripts: Mapping[str, Any],
        settings: Settings,
        crew: Crew,
        drop_dead: Callable[[KnownCrew], Awaitable[bool]],
    ) -> None:
        """`crew` is that of this worker.

        `drop_dead` drops a crew's dead jobs, and returns whether it has come to the end.
        """
        self._drop_dead = drop_dead
        self._redis = redis
        self._scripts = scripts
        self._settings = settings
        self._crew = crew
        #: Whether living workers of another namespace serve the same queues.
        self.has_rivals = False
        #: sha1s of jobs whose segments are certainly gone.
        self.certain: set[str] = set()

    async def run(self, *, has_seen_segments: bool) -> None:
        """One pass: note that my crew lives, and dissolve those whose time is over."""
        if has_seen_segments:
            await self._scripts["note"]([keys.CREWS], [self._crew.name, "sighted", "1"])
        now = float((await self._redis.time())[0])
        crews = [await self._looked_at(one) for one in await self.known()]
        self.has_rivals = any(
            one.is_alive
            and not self._is_here(one.crew)
            and {*one.crew.queues.values()} & {*self._crew.queues.values()}
            for one in crews
        )
        for one in crews:
            if one.is_alive or one.crew.name == self._crew.name:
                await self._scripts["note"]([keys.CREWS], [one.crew.name, "seen", int(now)])
            elif self._is_over(one, now):
                await self._dissolve(one, crews, now)

    async def note_older(self) -> None:
        """Note crews that earlier versions of the worker have left without a note."""
        noted = {one.crew.namespace for one in await self.known()}
        async for key in self._redis.scan_iter(keys.workers("*"), count=1000):
            namespace = key.decode("utf-8", "replace").removeprefix(keys.workers(""))
            if namespace in noted or namespace == self._crew.namespace:
                continue
            queues = self._crew.queues
            crew = Crew(namespace, kinship(self._settings, namespace), queues, "")
            members = await self._reaper(crew).members()
            if members:
                host = members[0].rsplit("-", 2)[0]
                about = {"host": host, **{str(kind): name for kind, name in queues.items()}}
                now = int((await self._redis.time())[0])
                notes: dict[Any, Any] = {crew.name: json.dumps(about), f"{crew.name} seen": now}
                await self._redis.hset(keys.CREWS, mapping=notes)

    async def known(self) -> list[KnownCrew]:
        """The crews that are noted."""
        noted: Any = await self._redis.hgetall(keys.CREWS)
        return parse_crews(noted)

    async def _looked_at(self, known: KnownCrew) -> KnownCrew:
        members = await self._reaper(known.crew).members()
        beats = [keys.heartbeat(member) for member in members]
        is_alive = bool(beats and await self._redis.exists(*beats))
        return KnownCrew(known.crew, known.seen, known.has_seen_segments, tuple(members), is_alive)

    def _is_here(self, crew: Crew) -> bool:
        """Whether a crew sees the shared memory that this worker sees."""
        return crew.namespace == self._crew.namespace

    def _is_over(self, known: KnownCrew, now: float) -> bool:
        own_boot = self._crew.namespace[:_BOOT_ID]
        has_rebooted = (
            known.crew.host == self._crew.host and known.crew.namespace[:_BOOT_ID] != own_boot
        )
        return has_rebooted or now - known.seen > self._settings.orphan_after_s

    async def _dissolve(self, known: KnownCrew, crews: Collection[KnownCrew], now: float) -> None:
        crew = known.crew
        is_here = self._is_here(crew)
        reaper = self._reaper(crew)
        given_back: list[str] = []
        for worker in known.members:
            given_back += await reaper.reap(worker, counted=False)
        if known.has_seen_segments and not is_here:
            self.certain.update(given_back[:MOST_CERTAIN])
        if left := await reaper.members():
            log.debug("%s still has %s", crew.name, ", ".join(left))
            return  # the next pass goes on
        # Of other queues, results may yet be fetched and dead jobs be tried again: perhaps there is
        # just no worker at present.
        age_s, settings = now - known.seen, self._settings
        is_over = age_s > (settings.dead_ttl_s if is_here else settings.result_ttl_s)
        if is_over or (self._serves_same(crew) and not is_here):
            if not await self._drop_dead(known):
                return
        else:
            if given_back:
                self._say(crew, len(given_back))
            return
        others = [one for one in crews if one.crew.namespace == crew.namespace and one != known]
        if not (others or is_here):
            await self._abandon(crew.namespace)
        names = [crew.name, f"{crew.name} seen", f"{crew.name} sighted"]
        await self._redis.hdel(keys.CREWS, *names)
        self._say(crew, len(given_back))

    def _say(self, crew: Crew, count: int) -> None:
        log.warning(
            "dissolved the workers of %s on %s, none of which is alive: %d jobs are back in %s",
            crew.namespace,
            crew.host,
            count,
            " and ".join(crew.queues.values()),
        )

    def _serves_same(self, crew: Crew) -> bool:
        return {*crew.queues.values()} == {*self._crew.queues.values()}

    async def _abandon(self, namespace: str) -> None:
        """Remove all that is in Redis about a shared memory that is gone."""
        segments = keys.segments(namespace)
        while await self._scripts["abandon"]([segments], [CHUNK, keys.result("")]):
            pass
        await self._redis.delete(segments, keys.reaper(namespace))
        await self._redis.hdel(keys.CREWS, f"{namespace} clock", f"{namespace} fault")

    def _reaper(self, crew: Crew) -> Reaper:
        return Reaper(self._redis, self._scripts, self._settings, crew, self._is_here(crew))
