"""Workers with what they have in memory, reapers that stop half-way, and the state of Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from core import keys
from core.broker.connection import Link
from core.broker.queues import Queues
from core.claims import Claim
from core.config import Settings
from core.identity import Identity
from core.keys import Kind
from core.recovery.recovery import Recovery

Reply = TypeVar("Reply")

NAMESPACE = "boot-1"


@dataclass(eq=False)
class Hand:
    """A claim in a worker's memory, and how far the worker has got with it.

    `todo` are the steps that are left once the job's fate is decided; between any two of them
    the worker may die. `failing` is how the job fails, while the worker has no answer to that.
    """

    claim: Claim
    request_id: str
    superseded: bool = False
    loaded: bool = False
    segment: str = ""
    failing: str = ""
    todo: list[tuple[str, str]] = field(default_factory=list)
    decided: bool = False
    is_reply_lost: bool = False

    @property
    def stage(self) -> str:
        if self.decided:
            return "decided"
        if self.failing:
            return "failing"
        if self.superseded:
            return "superseded"
        return "written" if self.segment else "loaded" if self.loaded else "claimed"


class Worker:
    """One identity: what it has in memory is gone when it crashes, what it shares is not."""

    def __init__(self, settings: Settings, number: int, queue_digest: str) -> None:
        worker = f"host-{number}-{queue_digest}{number:08x}"
        self.identity = Identity(worker, NAMESPACE, "host", number, 0)
        self.settings = settings
        self.queues = Queues(settings, self.identity)
        self.queues.link.repeat_until_answered = self.call  # type: ignore[method-assign]
        self.is_repeated = False
        self.hands: list[Hand] = []
        self.counter = 0
        self.stalled: Pass | None = None

    async def call(self, operation: Any) -> Any:
        return await operation(self.is_repeated)

    async def finish(self, hand: Hand, step: Coroutine[Any, Any, Reply], loses: bool) -> Reply:
        """Do what ends a claim; if it loses its reply, the worker knows the claim as before."""
        number = hand.claim.number
        epoch = self.queues._epochs.get(number)
        self.is_repeated = hand.is_reply_lost
        reply = await step
        self.is_repeated = False
        hand.is_reply_lost = loses
        if loses:
            self.queues._in_flight[hand.claim] += 1
            if epoch is not None:
                self.queues._epochs[number] = epoch
        return reply


class Interrupted(Exception):
    """The reaper died here."""


class Pass:
    """One pass of a reaper, which dies or stalls before the command with the number `calls`."""

    def __init__(self, worker: Worker, calls: int | None, *, stalls: bool = False) -> None:
        self._recovery = Recovery(worker.settings, worker.identity, Link(worker.settings.redis_url))
        self._client = self._recovery._redis
        self._execute = self._client.execute_command
        self._client.execute_command = self._command  # type: ignore[method-assign]
        self._calls, self._stalls = calls, stalls
        self._stalled, self._go_on = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def _command(self, *arguments: Any, **options: Any) -> Any:
        if self._calls is not None:
            self._calls -= 1
            if self._calls < 0 and not self._go_on.is_set():
                if not self._stalls:
                    raise Interrupted
                self._stalled.set()
                await self._go_on.wait()
        return await self._execute(*arguments, **options)

    async def start(self) -> bool:
        """Whether it is over; otherwise it stalls."""
        self._task = asyncio.create_task(self._recovery.recover())
        stalled = asyncio.create_task(self._stalled.wait())
        await asyncio.wait({self._task, stalled}, return_when=asyncio.FIRST_COMPLETED)
        stalled.cancel()
        if not self._task.done():
            return False
        await self._end()
        return True

    async def go_on(self) -> None:
        self._go_on.set()
        await self._end()

    async def die(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await self._end()

    async def _end(self) -> None:
        assert self._task is not None
        try:
            await self._task
        except (Interrupted, asyncio.CancelledError):
            pass
        finally:
            await self._client.aclose()


class State:
    """What is in Redis at one moment, by worker (with a ghost's tilde) and by request."""

    def __init__(self, client: Any, settings: Settings) -> None:
        names = sorted(key.decode() for key in client.scan_iter(count=1000))
        lists = [name for name in names if ":processing:" in name or ":cleanup:" in name]
        hashes = [name for name in names if name.startswith("inpainting_result:")]
        waiting = [keys.delayed(settings.queue(kind)) for kind in Kind]
        with client.pipeline() as asked:
            for name in (*map(settings.queue, Kind), keys.DEAD, *lists):
                asked.lrange(name, 0, -1)
            for name in waiting:
                asked.zrange(name, 0, -1)
            for name in hashes:
                asked.hget(name, "inpaint_shm_info")
            asked.smembers(keys.workers(NAMESPACE))
            asked.zrangebyscore(keys.segments(NAMESPACE), "-inf", 0)
            long, short, dead, *replies, workers, marked = asked.execute()
        #: In their queues, and waiting for another attempt.
        self.queued: list[list[bytes]] = [long, short]
        for _ in waiting:
            members = replies.pop(len(lists))
            self.queued.append([member.partition(b"\0")[0] for member in members])
        self.dead = [json.loads(entry)["raw"].encode() for entry in dead]
        self.known = {member.decode() for member in workers}
        self.marked = {member.decode().split(" ")[0] for member in marked}
        self.processing: dict[str, list[bytes]] = {}
        self.cleanup: dict[str, list[bytes]] = {}
        for name, payloads in zip(lists, replies, strict=False):
            _, what, worker, *_ = name.split(":")
            place = self.processing if what == "processing" else self.cleanup
            place.setdefault(worker, []).extend(payloads)
        #: Request -> segment, of the results that nobody has fetched.
        self.results = {
            name.partition(":")[2]: json.loads(info)["shm_name"]
            for name, info in zip(hashes, replies[len(lists) :], strict=True)
            if info is not None
        }
