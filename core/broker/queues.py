"""Jobs in Redis: the two queues, and how jobs are claimed. Atomic steps are Lua scripts.

Invariant of at-least-once delivery, through any crash: a job is in its queue, in the queue's
delayed set, in the processing list of one worker, on the dead-letter list, or done. A payload
leaves the processing list only in the script that moves it elsewhere. A worker whose payload is no
longer in its list has lost the job to another worker and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from core import keys
from core.broker.finishing import Finishing
from core.broker.heartbeat import registration
from core.broker.no_list import NO_LIST_PAUSE_S, UnlessNoList
from core.broker.redis_connections import Oversized
from core.broker.redis_errors import REDIS_ERRORS
from core.broker.requirements import can_unblock, require_server, warn_of_ignored
from core.broker.waiter import SHORT_BLOCK_S, Waiter
from core.claims import Claim, Standing
from core.config import Settings
from core.contract import too_long
from core.faults import Fault, fault_point
from core.identity import Identity, crew_of
from core.keys import Kind
from core.telemetry import transitions

#: Bytes of payloads that are read from a list in one call.
LOOK_BYTES: Final = 4 << 20

#: Largest number of due jobs that are moved to their queue in one call.
PROMOTED: Final = 100


class Queues(Finishing):
    """The two queues with at-least-once delivery."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        super().__init__(settings, identity)
        self._waiters = {
            kind: Waiter(settings.redis_url, settings.max_message_bytes) for kind in Kind
        }
        #: The waits for jobs that have not ended.
        self._waits: dict[Kind, asyncio.Task[bool | None]] = {}
        self._numbers = itertools.count(1)
        self._unless_no_list = UnlessNoList(settings.queues, self._redis)

    # -- the server -------------------------------------------------------------------------

    async def check_server(self) -> None:
        """Check the server; raises RedisUnsuitable if it cannot serve the delivery mode."""
        warn_of_ignored(self.settings.redis_url)
        await require_server(self._redis, self.settings.delivery)
        await self._scripts["rights"](
            key=keys.claims(self.identity.worker),
            result_queue=self._result_queue.key("0"),
            moves=int(self.keeps_payload),
        )
        if not await can_unblock(self._redis):
            for waiter in self._waiters.values():
                waiter.longest_s = SHORT_BLOCK_S

    async def register(self) -> None:
        """Register this worker; required before it claims anything."""
        await self._scripts["register"](**registration(self.settings, self.identity))

    async def deregister(self) -> None:
        """Deregister this worker.

        If it leaves something behind, it stays in the set of workers, where a reaper finds it
        without a heartbeat and cleans up after it.
        """
        worker, namespace = self.identity.worker, self.identity.namespace
        if await self._scripts["deregister"](
            workers=keys.workers(namespace),
            heartbeat=keys.heartbeat(worker),
            claims=keys.claims(worker),
            segments=keys.segments(namespace),
            lists=[*(keys.processing(worker, kind) for kind in Kind), keys.cleanup(worker)],
            worker=worker,
            namespace=namespace,
            crew=crew_of(self.settings.queues, namespace).name,
            barred_ms=self.settings.result_ttl_ms,
        ):
            fault_point(Fault.STRUCK_OFF)

    async def close(self) -> None:
        """Close all connections."""
        for wait in self._waits.values():
            wait.cancel()
        await asyncio.gather(*self._waits.values(), return_exceptions=True)
        for client in (self._redis, *(waiter.client for waiter in self._waiters.values())):
            with contextlib.suppress(*REDIS_ERRORS):
                await client.aclose()

    # -- claiming ---------------------------------------------------------------------------

    async def take(self, kind: Kind, count: int, joining: Claim | None = None) -> list[Claim]:
        """Claim up to `count` jobs that are in the queue now, to share a batch with `joining`.

        A job with an attempt behind it is claimed alone.
        """
        if count <= 0:
            return []
        return await self._unless_no_list(kind, self._take(kind, {kind: count}, joining)) or []

    async def take_either(self, first: Kind, counts: Mapping[Kind, int]) -> list[Claim]:
        """Claim jobs of the first kind or, if there is none, of the other kind, in one call."""
        for kind in (first, first.other):  # the second one if the first key is not a list
            claims = await self._unless_no_list(kind, self._take(kind, counts))
            if claims is not None:
                return claims
        return []

    async def wait_for_either(self, first: Kind) -> list[Claim]:
        """Wait for a job of either kind and claim it; returns none after a while or `unblock()`.

        Waits for both queues at once, each on its own connection, by a command that puts the job at
        the head of a queue back to that head. So a job is only claimed by the script that records
        it: submissions of a request are ordered by their records. Several idle workers may be woken
        by one job, and all but one claim nothing. A wait that has not ended is used again next
        time; a job may have come and gone meanwhile.
        """
        order = (first, first.other)
        for kind in order:
            if kind not in self._waits:
                self._waits[kind] = asyncio.ensure_future(self._wait(kind))
        await asyncio.wait(self._waits.values(), return_when=asyncio.FIRST_COMPLETED)
        ended = {kind: self._waits.pop(kind) for kind in order if self._waits[kind].done()}
        failures = [error for wait in ended.values() if (error := wait.exception()) is not None]
        for kind, wait in ended.items():
            if wait.exception() is None and wait.result():
                return await self.take_either(kind, dict.fromkeys(Kind, 1))
        if failures:
            raise failures[0]
        return []

    async def unblock(self) -> None:
        """Make the server end the blocking waits, as if they had timed out."""
        for waiter in self._waiters.values():
            await waiter.unblock(self._redis)

    async def reconcile(self) -> list[Claim]:
        """Take up the jobs in this worker's processing lists that it does not know of.

        They are from claims whose reply was lost. Must not run while a claim is in flight.
        """
        recovered: list[Claim] = []
        for kind in Kind:
            known = self._in_flight.copy()  # before the query: a job that ends meanwhile is known
            processing = keys.processing(self.identity.worker, kind)
            async with self._redis.pipeline(transaction=True) as transaction:
                # Reapers find only the claims of workers in this set.
                transaction.sadd(keys.workers(self.identity.namespace), self.identity.worker)
                transaction.llen(processing)
                length = (await transaction.execute())[1]
            if length == sum(count for claim, count in known.items() if claim.kind is kind):
                continue
            listed = Counter(await self._listed(processing, kind))
            for payload, count in listed.items():
                missing = count - known[Claim(kind, payload)]
                recovered += self._take_up(kind, [payload] * missing)
        return recovered

    async def enter(self, claims: Sequence[Claim]) -> list[Standing]:
        """Record claims as worked on; returns the standing of each.

        To be called after every claim. Claims that a script has made are recorded already.
        """
        fresh = [claim for claim in claims if claim.number not in self._standings]
        if fresh:
            await self._enter(fresh)
        return [self._standings[claim.number] for claim in claims]

    async def _enter(self, claims: Sequence[Claim]) -> None:
        worker = self.identity.worker
        entered: list[Any] = []
        for claim in claims:
            kind = claim.kind if self.keeps_payload else ""
            entered += [claim.number, claim.payload, claim.request_id, kind]
        asked_at = time.monotonic()
        now, epoch, attempts, superseded = await self._scripts["enter"](
            workers=keys.workers(self.identity.namespace),
            claims=keys.claims(worker),
            long=keys.processing(worker, Kind.LONG),
            short=keys.processing(worker, Kind.SHORT),
            worker=worker,
            new_epoch=secrets.token_hex(8),
            entered=entered,
        )
        self.clock.set(asked_at, *now)
        self._note(claims, epoch, attempts, superseded)

    def _note(
        self,
        claims: Sequence[Claim],
        epoch: bytes,
        attempts: Sequence[bytes],
        superseded: Sequence[bytes],
    ) -> None:
        """Keep what Redis has replied about claims."""
        for claim, count, late in zip(claims, attempts, superseded, strict=True):
            if count:  # else it was taken from this worker, which its end will report
                self._epochs[claim.number] = epoch.decode()
            self._standings[claim.number] = Standing(int(count or 0), bool(late))

    async def promote(self, kind: Kind) -> tuple[int, float | None]:
        """Move jobs that are due to the tail of their queue.

        Returns how many were moved, and the seconds until the next one is due; None if none waits.
        """
        queue = self.settings.queue(kind)
        moved, next_ms = await self._scripts["promote"](
            delayed=keys.delayed(queue), queue=queue, most=PROMOTED, most_bytes=LOOK_BYTES
        )
        return moved, None if next_ms < 0 else next_ms / 1000

    async def newest(self, kind: Kind, count: int) -> list[bytes]:
        """The newest payloads in a queue that are not too large. Claims nothing."""
        queue = self.settings.queue(kind)
        start = max(0, await self._redis.llen(queue) - count)
        limit = self.settings.max_message_bytes
        payloads = await self._scripts["look"](
            list=queue, first=start, most_bytes=LOOK_BYTES, longest=limit
        )
        return [payload for length, _, payload in payloads if length <= limit]

    async def is_device_held(self) -> bool:
        """Whether jobs of this namespace are held for a device fault."""
        noted: Any = await self._redis.hget(keys.CREWS, f"{self.identity.namespace} fault")
        return (noted or b"").startswith(b"held")

    # -- underneath -------------------------------------------------------------------------

    async def _take(
        self, kind: Kind, counts: Mapping[Kind, int], joining: Claim | None = None
    ) -> list[Claim]:
        """Claim jobs of a kind; if its queue is empty, of the other kind if `counts` has that."""
        worker = self.identity.worker
        while True:
            numbers = [next(self._numbers) for _ in range(max(counts.values()))]
            asked_at = time.monotonic()
            reply = await self._scripts["claim"](
                queue=self.settings.queue(kind),
                processing=keys.processing(worker, kind),
                other_queue=self.settings.queue(kind.other),
                other_processing=keys.processing(worker, kind.other),
                workers=keys.workers(self.identity.namespace),
                claims=keys.claims(worker),
                worker=worker,
                count=counts[kind],
                other_count=counts.get(kind.other, 0),
                joined=joining.sha1 if joining else "",
                longest=self.settings.max_message_bytes,
                keeps_payload=int(self.keeps_payload),
                new_epoch=secrets.token_hex(8),
                first_number=numbers[0],
            )
            now, epoch, taken, attempts, superseded, is_other, *large = reply
            self.clock.set(asked_at, *now)
            used = kind.other if is_other else kind
            if large and not taken:  # else it is refused next time, at the head
                oversized = Oversized(large[0], large[1].decode(), large[2])
                await self._refuse(used, self.settings.queue(used), oversized)
                continue
            claims = [
                Claim(used, payload, number)
                for payload, number in zip(taken, numbers, strict=False)
            ]
            self._in_flight.update(claims)
            self._note(claims, epoch, attempts, superseded)
            return claims

    async def _wait(self, kind: Kind) -> bool | None:
        block = self._block(kind, self._waiters[kind].longest_s)
        return await self._unless_no_list(kind, block, NO_LIST_PAUSE_S)

    async def _block(self, kind: Kind, timeout_s: float) -> bool:
        """Wait until there is a job; whether there is one."""
        queue = self.settings.queue(kind)
        waiter = self._waiters[kind]
        return await waiter.wait("BLMOVE", queue, queue, "LEFT", "LEFT", timeout_s) is not None

    async def _refuse(self, kind: Kind, place: str, large: Oversized) -> None:
        """Replace a message that is too large by an entry of the dead-letter list; publish this.

        `place` is the list that has the message, '' if it is in none any more.
        """
        error = too_long(large.length, self.settings.max_message_bytes)
        queue = self.settings.queue(kind)
        claim = Claim(kind, large.head)
        # A repetition finds the same entry.
        entry = self._dead_entry(claim, error, 1, large)

        async def refuse(_: bool) -> int | None:
            reply: int | None = await self._scripts["refuse"](
                place=place or queue,
                length=large.length,
                sha1=large.sha1,
                dead_entry=entry,
                where=int(place != queue) if place else "",
                **self._published(claim.request, kind, error),
            )
            return reply

        dropped = await (refuse(False) if place else self.link.repeat_until_answered(refuse))
        if dropped is not None:
            self._result_queue.note(dropped)
            transitions.refused(claim, error)

    async def _listed(self, processing: str, kind: Kind) -> list[bytes]:
        """The payloads in a processing list; those that are too large are refused."""
        payloads: list[bytes] = []
        index = 0
        while chunk := await self._scripts["look"](
            list=processing,
            first=index,
            most_bytes=LOOK_BYTES,
            longest=self.settings.max_message_bytes,
        ):
            index += len(chunk)
            for length, sha1, content in chunk:
                if length > self.settings.max_message_bytes:
                    await self._refuse(kind, processing, Oversized(length, sha1.decode(), content))
                    index -= 1
                else:
                    payloads.append(content)
        return payloads

    def _take_up(self, kind: Kind, payloads: Sequence[bytes]) -> list[Claim]:
        claims = [Claim(kind, payload, next(self._numbers)) for payload in payloads]
        self._in_flight.update(claims)
        return claims
