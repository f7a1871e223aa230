"""Jobs in Redis: the two queues, and how they are claimed. What must be atomic is Lua.

What holds at every moment, in every order of crashes: with at-least-once delivery a job is in its
queue, in the queue's waiting set, in the processing list of one worker, on the dead list, or
finished with. A payload leaves the processing list only in the script that puts it elsewhere,
and a worker whose payload is gone from there has lost the job to another one and touches nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar, cast

from redis.exceptions import NoPermissionError, ResponseError

from core import keys
from core.broker.finishing import Finishing
from core.broker.heartbeat import register_arguments
from core.broker.redis_connections import Oversized
from core.broker.redis_errors import REDIS_ERRORS
from core.broker.requirements import KEEPS_ALL, eviction_policy, require_suitable
from core.broker.waiter import SHORT_BLOCK_S, Waiter
from core.claims import Claim, Standing
from core.config import Settings
from core.contract import too_long
from core.errors import RedisUnsuitable
from core.faults import Fault, fault_point
from core.identity import Identity, crew_name
from core.keys import Kind
from core.telemetry import transitions

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")

#: Where a queue's key is no list: seconds until it is waited for again, and until the log says so.
NO_LIST_PAUSE_S: Final = 0.05
NO_LIST_REMINDER_S: Final = 60.0

#: Which of the keys of lua/enter.lua is the processing list of a kind.
PROCESSING_KEY: Final = {Kind.LONG: 6, Kind.SHORT: 7}

#: Bytes of payloads that are read from a list at once.
LOOK_BYTES: Final = 4 << 20

#: Jobs that have waited and are moved to their queue at once.
PROMOTED: Final = 100


class Queues(Finishing):
    """The two queues with at-least-once delivery."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        super().__init__(settings, identity)
        self._waiters = {kind: Waiter(settings) for kind in Kind}
        self._numbers = itertools.count(1)
        self._complain_at = dict.fromkeys(Kind, 0.0)
        #: Whether the last claim was refused for a type, though the queue was a list.
        self._was_list = dict.fromkeys(Kind, False)

    # -- the server -------------------------------------------------------------------------

    async def check_server(self) -> None:
        """Find out what the server can do.

        Raises RedisUnsuitable unless that is enough for the delivery mode.
        """
        info = await self._redis.info()
        require_suitable(info, self.settings.delivery)
        if (policy := eviction_policy(info)) != KEEPS_ALL:
            log.warning(
                "redis may evict jobs and results: its maxmemory-policy is %s, set %s",
                policy,
                KEEPS_ALL,
            )
        if wrong := await self._wrong_type():
            raise RedisUnsuitable(wrong)
        await self._scripts["rights"]([keys.claims(self.identity.worker)], [int(self.fenced)])
        try:
            await self._redis.execute_command("CLIENT UNBLOCK", 0)  # type: ignore[no-untyped-call]
        except NoPermissionError as error:
            log.warning(
                "claims are slower when idle, since redis refuses CLIENT UNBLOCK: %s", error
            )
            for waiter in self._waiters.values():
                waiter.longest_s = SHORT_BLOCK_S

    async def register(self) -> None:
        """Announce this worker before it claims anything."""
        await self._scripts["register"](*register_arguments(self.settings, self.identity))

    async def deregister(self) -> None:
        """Take the announcement back.

        A worker that leaves something behind stays in the set of workers, where it will be
        found without a heartbeat and cleared up after.
        """
        worker, namespace = self.identity.worker, self.identity.namespace
        ttl_ms = int(self.settings.result_ttl_s * 1000)
        if await self._scripts["deregister"](
            [
                keys.workers(namespace),
                keys.heartbeat(worker),
                keys.claims(worker),
                keys.CREWS,
                keys.segments(namespace),
                keys.DEAD,
                *(keys.processing(worker, kind) for kind in Kind),
                keys.cleanup(worker),
            ],
            [worker, namespace, crew_name(self.settings, namespace), ttl_ms],
        ):
            fault_point(Fault.STRUCK_OFF)

    async def close(self) -> None:
        """Close all connections."""
        for client in (self._redis, *(waiter.client for waiter in self._waiters.values())):
            with contextlib.suppress(*REDIS_ERRORS):
                await client.aclose()

    # -- claiming ---------------------------------------------------------------------------

    async def take(self, kind: Kind, count: int, joining: Claim | None = None) -> list[Claim]:
        """Up to `count` jobs that are in the queue now, to share a batch with `joining`.

        A job with an attempt against it comes alone.
        """
        return await self._unless_no_list(kind, self._take(kind, count, joining)) or []

    async def wait_for_either(self, first: Kind) -> list[Claim]:
        """A job of either kind as soon as there is one; none after a while or `unblock()`.

        Both queues are waited for at once, each on a connection of its own. A claim in flight is
        never abandoned: when one queue has delivered, the server is asked to let the other wait
        end. Where a job of each kind arrives at the same moment, both are returned.
        """
        waits = {kind: asyncio.ensure_future(self._wait(kind)) for kind in (first, first.other)}
        await asyncio.wait(waits.values(), return_when=asyncio.FIRST_COMPLETED)
        while not all(wait.done() for wait in waits.values()):
            await self.unblock()
            await asyncio.wait(waits.values(), timeout=0.005)
        claims: list[Claim] = []
        failure: BaseException | None = None
        for kind, wait in waits.items():
            if (error := wait.exception()) is not None:
                failure = error
            elif (payload := wait.result()) is not None:
                claims += self._hold(kind, [payload])
        if failure is not None and not claims:
            raise failure
        return claims

    async def unblock(self) -> None:
        """End the blocking waits in the server, as if their time were over."""
        for waiter in self._waiters.values():
            await waiter.unblock(self._redis)

    async def reconcile(self) -> list[Claim]:
        """Jobs in this worker's processing lists that it knows nothing of, now taken up.

        They come from claims whose reply was lost. Must not run while a claim is in flight.
        """
        found: list[Claim] = []
        for kind in Kind:
            known = self._held.copy()  # before asking: a job that ends meanwhile is not one
            processing = keys.processing(self.identity.worker, kind)
            async with self._redis.pipeline(transaction=True) as transaction:
                # Others would not find the claims of a worker that was struck off.
                transaction.sadd(keys.workers(self.identity.namespace), self.identity.worker)
                transaction.llen(processing)
                length = (await transaction.execute())[1]
            if length == sum(count for claim, count in known.items() if claim.kind is kind):
                continue
            listed = Counter(await self._listed(processing, kind))
            for payload, count in listed.items():
                missing = count - known[Claim(kind, payload)]
                found += self._hold(kind, [payload] * missing)
        return found

    async def enter(self, claims: Sequence[Claim]) -> list[Standing]:
        """Enter claims into the books, as worked on; what the books say of them.

        To be called after every claim. Those that a script has made are in the books already.
        """
        fresh = [claim for claim in claims if claim.number not in self._standings]
        if fresh:
            await self._enter(fresh)
        return [self._standings[claim.number] for claim in claims]

    async def _enter(self, claims: Sequence[Claim]) -> None:
        arguments: list[Any] = [self.identity.worker, secrets.token_hex(8)]
        for claim in claims:
            place = PROCESSING_KEY[claim.kind] if self.fenced else ""
            arguments += [
                claim.number,
                claim.payload,
                claim.request_id,
                place,
            ]
        epoch, attempts, superseded = await self._scripts["enter"](
            [
                keys.workers(self.identity.namespace),
                keys.claims(self.identity.worker),
                keys.ATTEMPTS,
                keys.SUBMISSIONS,
                keys.CREWS,
                *(keys.processing(self.identity.worker, kind) for kind in Kind),
            ],
            arguments,
        )
        self._note(claims, epoch, attempts, superseded)

    def _note(
        self,
        claims: Sequence[Claim],
        epoch: bytes,
        attempts: Sequence[bytes],
        superseded: Sequence[bytes],
    ) -> None:
        """Note what the books say of claims."""
        for claim, count, late in zip(claims, attempts, superseded, strict=True):
            if count:  # otherwise others have it by now, and its end will say so
                self._epochs[claim.number] = epoch.decode()
            self._standings[claim.number] = Standing(int(count or 0), bool(late))

    async def promote(self, kind: Kind) -> tuple[int, float | None]:
        """Move jobs that have waited long enough to the tail of their queue.

        Returns how many were moved, and the seconds until the next one is due; None if none waits.
        """
        queue = self.settings.queue(kind)
        moved, next_ms = await self._scripts["promote"](
            [keys.delayed(queue), queue], [PROMOTED, LOOK_BYTES]
        )
        return moved, None if next_ms < 0 else next_ms / 1000

    async def newest(self, kind: Kind, count: int) -> list[bytes]:
        """The newest payloads in a queue that are not too large; none is claimed."""
        queue = self.settings.queue(kind)
        start = max(0, await self._redis.llen(queue) - count)
        found = await self._scripts["look"](
            [queue], [start, LOOK_BYTES, self.settings.max_message_bytes]
        )
        return [one for length, _, one in found if length <= self.settings.max_message_bytes]

    async def is_device_held(self) -> bool:
        """Whether jobs of this namespace fail one after another, and none was delivered since."""
        noted: Any = await self._redis.hget(keys.CREWS, f"{self.identity.namespace} fault")
        return (noted or b"").startswith(b"held")

    # -- underneath -------------------------------------------------------------------------

    async def _take(self, kind: Kind, count: int, joining: Claim | None) -> list[Claim]:
        queue, worker = self.settings.queue(kind), self.identity.worker
        while True:
            numbers = [next(self._numbers) for _ in range(max(1, count))]
            epoch, taken, attempts, superseded, *large = await self._scripts["claim"](
                [
                    queue,
                    keys.processing(worker, kind),
                    keys.ATTEMPTS,
                    keys.workers(self.identity.namespace),
                    keys.claims(worker),
                    keys.SUBMISSIONS,
                    keys.CREWS,
                ],
                [
                    count,
                    joining.sha1 if joining else "",
                    self.settings.max_message_bytes,
                    int(self.fenced),
                    worker,
                    secrets.token_hex(8),
                    numbers[0],
                ],
            )
            if large and not taken:  # behind others it is at the head the next time
                await self._refuse(kind, queue, Oversized(large[0], large[1].decode(), large[2]))
            else:
                claims = [
                    Claim(kind, payload, number)
                    for payload, number in zip(taken, numbers, strict=False)
                ]
                self._held.update(claims)
                self._note(claims, epoch, attempts, superseded)
                return claims

    async def _wait(self, kind: Kind) -> bytes | None:
        block = self._block(kind, self._waiters[kind].longest_s)
        return await self._unless_no_list(kind, block, NO_LIST_PAUSE_S)

    async def _unless_no_list(
        self, kind: Kind, reply: Awaitable[Reply], pause_s: float = 0.0
    ) -> Reply | None:
        """None, after a pause, where the queue's key is no list: the other queue goes on."""
        try:
            answer = await reply
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):  # Redis 6.2 puts the script's name before it
                raise
            found: Any = await self._redis.type(self.settings.queue(kind))
            if found in (b"list", b"none"):
                # It was another key's until this moment; if not, another key is meant.
                if self._was_list[kind]:
                    raise
                self._was_list[kind] = True
                return None
        else:
            self._was_list[kind] = False
            return answer
        if time.monotonic() >= self._complain_at[kind]:
            self._complain_at[kind] = time.monotonic() + NO_LIST_REMINDER_S
            log.error(
                "no %s jobs are taken: %r in redis is not a list; rename or delete that key",
                kind,
                self.settings.queue(kind),
            )
        await asyncio.sleep(pause_s)
        return None

    async def _wrong_type(self) -> str:
        """Which key of all workers has another type than it should; empty if none has."""
        for key, wanted in keys.TYPES.items():
            found: Any = await self._redis.type(key)
            if found.decode() not in ("none", wanted):
                return (
                    f"the key {key} in redis is a {found.decode()}, a {wanted} is needed: rename "
                    "or delete it, or name another database in REDIS_URL"
                )
        return ""

    async def _block(self, kind: Kind, timeout_s: float) -> bytes | None:
        processing = keys.processing(self.identity.worker, kind)
        queue = self.settings.queue(kind)
        reply = await self._waiters[kind].wait(
            "BLMOVE", queue, processing, "LEFT", "RIGHT", timeout_s
        )
        if isinstance(reply, Oversized):
            await self._refuse(kind, processing, reply)
            return None
        return cast("bytes | None", reply)

    async def _refuse(self, kind: Kind, place: str, large: Oversized) -> None:
        """Put what is known of a message that is too large on the dead list, in its place."""
        error = too_long(large.length, self.settings)
        entry = self._dead_entry(Claim(kind, large.head), error, 1, large)
        anywhere = int(place != self.settings.queue(kind))
        if await self._scripts["refuse"](
            [place, keys.DEAD], [large.length, large.sha1, entry, anywhere]
        ):
            transitions.refused(kind, error)

    async def _listed(self, processing: str, kind: Kind) -> list[bytes]:
        """The payloads in a processing list; those that are too large are refused."""
        payloads: list[bytes] = []
        index = 0
        while found := await self._scripts["look"](
            [processing], [index, LOOK_BYTES, self.settings.max_message_bytes]
        ):
            index += len(found)
            for length, sha1, content in found:
                if length > self.settings.max_message_bytes:
                    await self._refuse(kind, processing, Oversized(length, sha1.decode(), content))
                    index -= 1
                else:
                    payloads.append(content)
        return payloads

    def _hold(self, kind: Kind, payloads: Sequence[bytes]) -> list[Claim]:
        claims = [Claim(kind, payload, next(self._numbers)) for payload in payloads]
        self._held.update(claims)
        return claims
