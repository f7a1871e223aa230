"""The ways to end a claim: commit, fail, lapse, retry, supersede, release. Each is one script.

A call is repeated until Redis answers. This is idempotent: a script recognises a repetition by the
claim's number, which its first call has removed from the worker's claims.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError

from core import keys
from core.broker.connection import COMMAND_TIMEOUT_S, Link, async_client
from core.broker.dead_job import write_entry, write_truncated_entry
from core.broker.pipelining import Pipelined
from core.broker.redis_connections import Oversized
from core.broker.redis_errors import REDIS_ERRORS
from core.broker.result_queue import ResultQueue
from core.broker.scripts import load_scripts
from core.broker.server_clock import ServerClock
from core.claims import Claim, Ending, Standing, barred_until
from core.config import Settings
from core.contract import result_name_start
from core.errors import Expired, JobError
from core.identity import Identity
from core.keys import Kind

#: Seconds for which a device fault is remembered while no further job reports it.
FAULT_TTL_S: Final = 3600


class Finishing:
    """A worker's claims in flight, and the calls that end them."""

    #: Whether a claimed payload stays in Redis until the claim is ended.
    keeps_payload = True

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings = settings
        self.identity = identity
        self.link = Link(settings.redis_url)
        self.clock = ServerClock()
        #: Set when a job has been put into a delayed set.
        self.waits_added = asyncio.Event()
        self._redis = async_client(settings.redis_url)
        self._scripts = load_scripts(self._redis)
        self._pipelined = Pipelined(self._redis)
        self._result_queue = ResultQueue(settings)
        self._in_flight: Counter[Claim] = Counter()
        #: Number of a recorded claim → the epoch of the server then.
        self._epochs: dict[int, str] = {}
        self._standings: dict[int, Standing] = {}
        self._marking: set[asyncio.Task[None]] = set()

    def claims_in_flight(self) -> list[Claim]:
        """The claims that this worker has made and not ended."""
        return list(self._in_flight.elements())

    def count_in_flight(self) -> int:
        """How many jobs this worker has claimed and not finished."""
        return sum(list(self._in_flight.values()))

    def mark_work(self, claims: Sequence[Claim], *, working: bool) -> None:
        """Note that these jobs are worked on from now on, or only wait.

        If this worker dies, an attempt is added to those that it worked on. The note is sent
        without waiting and may be lost. That is harmless: the next worker claims a job that kills
        workers first, and the job counts as worked on from that claim.
        """
        if not claims:
            return
        key = keys.claims(self.identity.worker)
        numbers = [claim.number for claim in claims]

        async def note() -> None:
            with contextlib.suppress(*REDIS_ERRORS):
                if working:
                    await self._evaluate("mark", claims=key, numbers=numbers)
                else:
                    await self._pipelined("HDEL", key, *(f"{number}:work" for number in numbers))

        task = asyncio.ensure_future(note())
        self._marking.add(task)
        task.add_done_callback(self._marking.discard)

    # -- ending a claim; each call is repeated until Redis answers --------------------------

    async def commit(
        self, claim: Claim, request_id: str, segment: str, fields: Mapping[str, str]
    ) -> tuple[Ending, str]:
        """Publish a result and put the job's inputs on the cleanup list.

        Returns COMMITTED, SUPERSEDED or LOST, and the name of a segment to be removed, or ''. That
        is an unfetched older result of the same request, or this result, if a newer one replaced it
        before Redis answered.
        """
        ending, replaced, *dropped = await self._finish(
            "commit",
            claim,
            request_id,
            result=keys.result(request_id),
            cleanup=keys.cleanup(self.identity.worker),
            segment=segment,
            result_s=self.settings.result_ttl_s,
            namespace=self.identity.namespace,
            fields=_flat(fields),
            **self._result_queue.push((request_id, fields.get("image_id", "")), claim.kind),
        )
        self._result_queue.note(sum(dropped))
        return _ending(ending, Ending.COMMITTED), replaced.decode()

    async def forget_replaced(self, request_id: str, segment: str) -> None:
        """Note that a replaced segment has been unlinked."""
        await self._run(
            "retire",
            segments=keys.segments(self.identity.namespace),
            member=f"{segment} {request_id}",
            score=barred_until(self.settings.result_ttl_s),
        )

    async def drop_cleanup_entry(self, claim: Claim, member: str = "") -> None:
        """Remove a job from the cleanup list: its inputs have been unlinked.

        `member` is `{segment} {request_id}`, the record of its result; empty if it has none.
        """
        await self._run(
            "clean",
            cleanup=keys.cleanup(self.identity.worker),
            segments=keys.segments(self.identity.namespace),
            payload=claim.payload,
            member=member,
        )

    async def fail(
        self,
        claim: Claim,
        error: JobError,
        attempts: int,
        request: tuple[str, str] | None,
        *,
        device: bool = False,
    ) -> Ending:
        """Give up a job and publish its failure: FAILED, HELD, SUPERSEDED or LOST.

        `device` says that the device may be at fault. If another such job was given up and nothing
        has been delivered since, this one is HELD instead: the claim does not end.
        """
        reply = await self._finish(
            "fail",
            claim,
            request[0] if request else "",
            keep=(b"held",),
            cleanup=keys.cleanup(self.identity.worker),
            dead_entry=self._dead_entry(claim, error, attempts),
            suspect=self.identity.namespace if device else "",
            fault_s=FAULT_TTL_S,
            **self._published(request, claim.kind, error),
        )
        return self._reported(reply, Ending.FAILED)

    async def lapse(self, claim: Claim, request: tuple[str, str], error: Expired) -> Ending:
        """End an expired job and publish this: EXPIRED, SUPERSEDED or LOST.

        In the first two cases its inputs are to be unlinked.
        """
        reply = await self._finish(
            "lapse",
            claim,
            request[0],
            cleanup=keys.cleanup(self.identity.worker),
            **self._published(request, claim.kind, error),
        )
        return self._reported(reply, Ending.EXPIRED)

    async def retry(self, claim: Claim, *, counted: bool = True, delay_s: float = 0.0) -> Ending:
        """Put a job at the tail of its queue after a delay: WAITS or LOST.

        If `counted`, an attempt is added.
        """
        ending = await self._finish(
            "retry", claim, counts=int(counted), delay_ms=int(delay_s * 1000)
        )
        self.waits_added.set()
        return _ending(ending, Ending.WAITS)

    async def supersede(self, claim: Claim) -> Ending:
        """Drop a superseded job, whose inputs are to be unlinked: SUPERSEDED or LOST."""
        cleanup = keys.cleanup(self.identity.worker)
        ending = await self._finish("supersede", claim, cleanup=cleanup)
        return _ending(ending, Ending.SUPERSEDED)

    async def release(self, claims: Sequence[Claim]) -> None:
        """Put jobs back at the head of their queues, in the order of their claims."""
        # One after another: if some of several concurrent calls were repeated, the order would
        # change.
        for claim in reversed(claims):
            await self._finish("release", claim)

    # -- underneath ----------------------------------------------------------------------

    def _published(
        self, request: tuple[str, str] | None, kind: Kind, error: JobError
    ) -> dict[str, Any]:
        """The keys and arguments of lua/prelude/failures.lua; without a request, none is told."""
        fields = {
            "status": "failed",
            "error": str(error),
            "reason": error.reason,
            "image_id": request[1] if request else "",
        }
        return {
            "result": keys.result(request[0]) if request else None,
            "result_ms": self.settings.result_ttl_ms,
            "fields": _flat(fields),
            **self._result_queue.push(request, kind, error.reason),
        }

    def _reported(self, reply: Any, landed: Ending) -> Ending:
        """How a claim ended, from the reply of a script that publishes a failure."""
        ending, *dropped = reply if isinstance(reply, list) else [reply]
        self._result_queue.note(sum(dropped))
        return _ending(ending, landed)

    async def _finish(
        self,
        name: str,
        claim: Claim,
        request_id: str | None = None,
        *,
        keep: Sequence[bytes] = (),
        **named: Any,
    ) -> Any:
        """Run a script that ends a claim, which is dropped unless the reply is in `keep`.

        `named` are the keys and arguments that lua/prelude/ownership.lua does not declare.
        """
        worker, queue = self.identity.worker, self.settings.queue(claim.kind)
        if request_id is None:
            request_id = claim.request_id
        start = result_name_start(worker, claim.payload, prefix=self.settings.shm_name_prefix)
        epoch = self._epochs.get(claim.number)
        named |= {
            "processing": keys.processing(worker, claim.kind),
            "claims": keys.claims(worker),
            "queue": queue,
            "delayed": keys.delayed(queue),
            "segments": keys.segments(self.identity.namespace),
            "workers": keys.workers(self.identity.namespace),
            "keeps_payload": int(self.keeps_payload),
            "payload": claim.payload,
            "sha1": claim.sha1,
            "number": "" if epoch is None else claim.number,
            "epoch": epoch or "",
            "request": request_id,
            "taken_mark": f"{start} {request_id}" if request_id else "",
        }

        async def run(again: bool) -> Any:
            if again:  # it only waits for Redis: a crash now is not the job's fault
                self.mark_work([claim], working=False)
            given_up_at = self.clock.earliest() + COMMAND_TIMEOUT_S
            return await self._evaluate(
                name, is_repeated=int(again), given_up_at=f"{given_up_at:.6f}", **named
            )

        reply = await self.link.repeat_until_answered(run)
        if reply not in keep:
            self._drop(claim)
        return reply

    async def _run(self, name: str, **named: Any) -> Any:
        """The reply of a script; the call is repeated until Redis answers."""
        return await self.link.repeat_until_answered(lambda _: self._evaluate(name, **named))

    async def _evaluate(self, name: str, **named: Any) -> Any:
        """The reply of a script, sent together with other waiting commands."""
        script = self._scripts[name]
        try:
            return await self._pipelined(*script.command(**named))
        except NoScriptError:
            return await script(**named)  # which loads it

    def _drop(self, claim: Claim) -> None:
        self._epochs.pop(claim.number, None)
        self._standings.pop(claim.number, None)
        self._in_flight[claim] -= 1
        if self._in_flight[claim] <= 0:
            del self._in_flight[claim]

    def _dead_entry(
        self, claim: Claim, error: JobError, attempts: int, large: Oversized | None = None
    ) -> bytes:
        fields: dict[str, str | int] = {
            "reason": error.reason,
            "error": str(error),
            "attempts": attempts,
            "queue": self.settings.queue(claim.kind),
            "worker": self.identity.worker,
            "namespace": self.identity.namespace,
        }
        if large is not None:
            return write_truncated_entry(large.length, large.sha1, large.head, **fields)
        return write_entry(claim.payload, **fields)


def _flat(fields: Mapping[str, str]) -> list[str]:
    """Fields and values in turn, as HSET takes them."""
    return [word for pair in fields.items() for word in pair]


def _ending(reply: bytes, landed: Ending) -> Ending:
    """How a claim ended, from a script's reply; LANDED, an earlier call's success, is `landed`."""
    return landed if reply == Ending.LANDED.encode() else Ending(reply.decode())
