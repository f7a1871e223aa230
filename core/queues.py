"""Jobs in Redis: claimed, committed, failed, put back. Everything that must not tear is Lua.

What holds at every moment, whatever dies: with at-least-once delivery a job is in its queue, in
the processing list of one worker, on the dead list, or its result is committed. A payload leaves
the processing list only in the script that puts it elsewhere, and a worker whose payload is gone
from there has lost the job to another one and touches nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from core import keys
from core.config import Settings
from core.connection import REDIS_ERRORS, Link, async_client, load_scripts
from core.dead_job import write_entry
from core.errors import JobError
from core.faults import Fault, reach
from core.heartbeat import heartbeat_value
from core.identity import Identity
from core.keys import Kind
from core.pipelining import Pipelined
from core.server import KEEPS_ALL, eviction_policy, require_suitable
from core.waiter import SHORT_BLOCK_S, Waiter

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")

#: Where a queue's key is no list: seconds until it is waited for again, and until the log says so.
NO_LIST_PAUSE_S: Final = 0.05
NO_LIST_REMINDER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A payload that this worker has claimed, byte for byte as it was received."""

    kind: Kind
    payload: bytes

    @property
    def sha1(self) -> str:
        return keys.sha1(self.payload)


class Queues:
    """The two queues with at-least-once delivery."""

    fenced = True

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings = settings
        self.identity = identity
        self.link = Link(settings)
        self._redis = async_client(settings)
        self._waiters = {kind: Waiter(settings) for kind in Kind}
        self._held: Counter[Claim] = Counter()
        self._complain_at = dict.fromkeys(Kind, 0.0)
        self._scripts = load_scripts(self._redis)
        self._pipelined = Pipelined(self._redis)

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
                policy, KEEPS_ALL,
            )  # fmt: skip
        try:
            await self._redis.execute_command("CLIENT UNBLOCK", 0)  # type: ignore[no-untyped-call]
        except NoPermissionError as error:
            log.warning(
                "claims are slower when idle, since redis refuses CLIENT UNBLOCK: %s", error
            )
            for waiter in self._waiters.values():
                waiter.longest_s = SHORT_BLOCK_S

    async def register(self) -> None:
        """Announce this worker, in one transaction, before it claims anything."""
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.set(
                keys.heartbeat(self.identity.worker),
                heartbeat_value(self.identity),
                px=int(self.settings.heartbeat_ttl_s * 1000),
            )
            transaction.sadd(keys.workers(self.identity.namespace), self.identity.worker)
            await transaction.execute()

    async def deregister(self) -> None:
        """Take the announcement back.

        A worker that leaves something behind stays in the set of workers, where it will be
        found without a heartbeat and cleared up after.
        """
        worker, namespace = self.identity.worker, self.identity.namespace
        left = [keys.processing(worker, kind) for kind in Kind] + [keys.cleanup(worker)]
        if not await self._redis.exists(*left):
            await self._redis.srem(keys.workers(namespace), worker)
            reach(Fault.STRUCK_OFF)
        await self._redis.delete(keys.heartbeat(worker))

    async def close(self) -> None:
        """Close all connections."""
        for client in (self._redis, *(waiter.client for waiter in self._waiters.values())):
            with contextlib.suppress(*REDIS_ERRORS):
                await client.aclose()

    def in_flight(self) -> int:
        """How many jobs this worker has claimed and not finished."""
        return sum(list(self._held.values()))

    # -- claiming ---------------------------------------------------------------------------

    async def take(self, kind: Kind, count: int, joining: Claim | None = None) -> list[Claim]:
        """Up to `count` jobs that are in the queue now, to share a batch with `joining`.

        A job with an attempt against it comes alone.
        """
        taken = self._unless_no_list(kind, self._take(kind, count, joining))
        return self._hold(kind, await taken or [])

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
            known = self._held.copy()  # before asking: what is finished meanwhile is no find
            processing = keys.processing(self.identity.worker, kind)
            listed = await self._asked("LRANGE", processing, 0, -1)
            for payload, count in Counter(listed).items():
                missing = count - known[Claim(kind, payload)]
                found += self._hold(kind, [payload] * missing)
        return found

    async def attempts(self, claims: Sequence[Claim]) -> list[int]:
        """How often each of these jobs has failed so far. To be called after every claim."""
        counts = await self._asked("HMGET", keys.ATTEMPTS, *(claim.sha1 for claim in claims))
        return [int(count or 0) for count in counts]

    # -- finishing; all of these are repeated until Redis has answered ------------------------

    async def commit(
        self, claim: Claim, request_id: str, segment: str, fields: Mapping[str, str]
    ) -> tuple[bool, str]:
        """Publish a result and leave the job's inputs to be unlinked.

        Returns whether the job was still this worker's, and the name of a segment to be removed, or
        '': of an older result of the same request that nobody fetched, or this one, if a newer
        result has replaced it before Redis answered.
        """
        flat = [word for pair in fields.items() for word in pair]
        outcome, replaced = await self._run(
            "commit",
            [
                keys.processing(self.identity.worker, claim.kind),
                keys.result(request_id),
                keys.segments(self.identity.namespace),
                keys.ATTEMPTS,
                keys.cleanup(self.identity.worker),
            ],
            [
                claim.payload,
                claim.sha1,
                segment,
                request_id,
                int(time.time() + self.settings.result_ttl_s),
                *flat,
            ],
        )
        self._drop(claim)
        return outcome != b"lost", replaced.decode()

    async def forget_replaced(self, request_id: str, segment: str) -> None:
        """Note that a replaced segment has been unlinked."""
        key, member = keys.segments(self.identity.namespace), f"{segment} {request_id}"
        score = condemned_until(self.settings)
        await self.link.insist(lambda: self._redis.zadd(key, {member: score}, xx=True))

    async def cleaned(self, claim: Claim) -> None:
        """Drop a committed job whose inputs have been unlinked."""
        key = keys.cleanup(self.identity.worker)
        await self.link.insist(lambda: self._pipelined("LREM", key, 1, claim.payload))

    async def fail(
        self, claim: Claim, error: JobError, attempts: int, request: tuple[str, str] | None
    ) -> bool:
        """Put a job on the dead list and tell its request; False if it was no longer ours."""
        key_list = [
            keys.processing(self.identity.worker, claim.kind),
            keys.DEAD,
            keys.ATTEMPTS,
        ]
        fields: list[str] = []
        if request is not None:
            request_id, image_id = request
            key_list.append(keys.result(request_id))
            fields = ["status", "failed", "error", str(error), "reason", error.reason]
            fields += ["image_id", image_id]
        entry = self._dead_entry(claim, error, attempts)
        ttl_ms = int(self.settings.result_ttl_s * 1000)
        owned = await self._run(
            "fail", key_list, [claim.payload, claim.sha1, entry, ttl_ms, *fields]
        )
        self._drop(claim)
        return bool(owned)

    async def retry(self, claim: Claim, *, counted: bool = True) -> bool:
        """Put a job to the tail of its queue; False if it was no longer ours.

        If `counted`, it has an attempt more.
        """
        owned = await self._run(
            "retry",
            [
                keys.processing(self.identity.worker, claim.kind),
                self.settings.queue(claim.kind),
                keys.ATTEMPTS,
            ],
            [claim.payload, claim.sha1 if counted else ""],
        )
        self._drop(claim)
        return bool(owned)

    async def release(self, claims: Sequence[Claim]) -> None:
        """Put unstarted jobs back to the head of their queues, in the order of their claims."""
        for kind in Kind:
            own = [claim for claim in claims if claim.kind is kind]
            if own:
                await self._run(
                    "release",
                    [keys.processing(self.identity.worker, kind), self.settings.queue(kind)],
                    [claim.payload for claim in own],
                )
            for claim in own:
                self._drop(claim)

    # -- underneath -------------------------------------------------------------------------

    async def _take(self, kind: Kind, count: int, joining: Claim | None) -> list[bytes]:
        processing = keys.processing(self.identity.worker, kind)
        taken = await self._scripts["claim"](
            [self.settings.queue(kind), processing, keys.ATTEMPTS],
            [count, joining.sha1 if joining else ""],
        )
        return cast("list[bytes]", taken)

    async def _wait(self, kind: Kind) -> bytes | None:
        block = self._block(kind, self._waiters[kind].longest_s)
        return await self._unless_no_list(kind, block, NO_LIST_PAUSE_S)

    async def _unless_no_list(
        self, kind: Kind, reply: Awaitable[Reply], pause_s: float = 0.0
    ) -> Reply | None:
        """None, after a pause, where the queue's key is no list: the other queue goes on."""
        try:
            return await reply
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):  # Redis 6.2 puts the script's name before it
                raise
        if time.monotonic() >= self._complain_at[kind]:
            self._complain_at[kind] = time.monotonic() + NO_LIST_REMINDER_S
            log.error(
                "no %s jobs are taken: %r in redis is not a list; rename or delete that key",
                kind, self.settings.queue(kind),
            )  # fmt: skip
        await asyncio.sleep(pause_s)
        return None

    async def _block(self, kind: Kind, timeout_s: float) -> bytes | None:
        processing = keys.processing(self.identity.worker, kind)
        queue = self.settings.queue(kind)
        reply = await self._waiters[kind].wait(
            "BLMOVE", queue, processing, "LEFT", "RIGHT", timeout_s
        )
        return cast("bytes | None", reply)

    async def _asked(self, *command: Any) -> list[Any]:
        """The reply to a command about what this worker has claimed.

        The same transaction sees to it that others would find the claims: a worker that was
        presumed dead and left nothing behind has been struck off the set of workers.
        """
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.sadd(keys.workers(self.identity.namespace), self.identity.worker)
            transaction.execute_command(*command)
            return cast("list[Any]", (await transaction.execute())[1])

    async def _run(self, name: str, key_list: list[str], arguments: list[Any]) -> Any:
        script = self._scripts[name]
        arguments = ["1" if self.fenced else "0", *arguments]

        async def evaluate() -> Any:
            try:
                return await self._pipelined(
                    "EVALSHA", script.sha, len(key_list), *key_list, *arguments
                )
            except NoScriptError:  # a server that was restarted, or has never had it
                return await script(key_list, arguments)

        return await self.link.insist(evaluate)

    def _hold(self, kind: Kind, payloads: Sequence[bytes]) -> list[Claim]:
        claims = [Claim(kind, payload) for payload in payloads]
        self._held.update(claims)
        return claims

    def _drop(self, claim: Claim) -> None:
        self._held[claim] -= 1
        if self._held[claim] <= 0:
            del self._held[claim]

    def _dead_entry(self, claim: Claim, error: JobError, attempts: int) -> str:
        return write_entry(
            claim.payload,
            reason=error.reason,
            error=str(error),
            attempts=attempts,
            queue=self.settings.queue(claim.kind),
            worker=self.identity.worker,
            namespace=self.identity.namespace,
        )


def condemned_until(settings: Settings) -> int:
    """The score, in the set of segments, of one that must not be committed any more.

    By the time that it means, nobody who would try can be about any more.
    """
    return -int(time.time() + settings.result_ttl_s)
