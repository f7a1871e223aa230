"""Delivery under every order of events: random histories on a real server and real segments.

A history is made of producers, two workers that may crash, freeze, give everything back or lose
replies at any step, a consumer, reapers that stop half-way or stall and go on later, and workers of
another shared memory that vanish with jobs in hand. After each step the whole state is compared
with what delivery promises; at the end everything is recovered and nothing is left.

The suite runs the same histories every time; STATE_MACHINE_EXAMPLES=5000 runs that many new ones.
A history that fails is printed as it was found: with SHRINK=1 it is shortened first, in minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core import keys
from core.broker.connection import Link
from core.broker.queues import Queues
from core.claims import Claim, Outcome
from core.config import Settings
from core.contract import input_names, result_name_start
from core.errors import BadMessage
from core.identity import Identity, kinship
from core.keys import Kind
from core.pixels import shm
from core.recovery.reaping import GHOST
from core.recovery.recovery import Recovery
from harness.redis_server import RedisServer
from harness.workers import OWN, segments

Reply = TypeVar("Reply")

UIDS = frozenset({os.geteuid()})
NAMESPACE = "boot-1"
ELSEWHERE = "boot-2"
BYTE = np.zeros(1, np.uint8)

WORKERS = st.integers(0, 1)
KINDS = st.sampled_from([Kind.LONG, Kind.LONG, Kind.LONG, Kind.SHORT])
REQUESTS = st.sampled_from(["r0", "r1", "a request"])
INDEX = st.integers(0, 3)  # of whatever there is to choose from, modulo its length
RARELY = st.sampled_from([False, False, False, True])


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
        self.queues.link.retry_until_answered = self.call  # type: ignore[method-assign]
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
            self.queues._held[hand.claim] += 1
            if epoch is not None:
                self.queues._epochs[number] = epoch
        return reply


class Interrupted(Exception):
    """The reaper died here."""


class Pass:
    """One pass of a reaper, which dies or stalls before the command with the number `calls`."""

    def __init__(self, worker: Worker, calls: int | None, *, stalls: bool = False) -> None:
        self._recovery = Recovery(worker.settings, worker.identity, Link(worker.settings))
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
        return await self._execute(*arguments, **options)  # type: ignore[no-untyped-call]

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
        #: In their queues, and waiting for another try.
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


class Delivery(RuleBasedStateMachine):
    """The programs around Redis and what the test knows of them; the truth is in Redis."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.redis: Any = redis.Redis.from_url(self.url, protocol=2)
        self.redis.flushall()
        self.runner = asyncio.Runner()
        self.settings = Settings(
            _env_file=None, redis_url=self.url, shm_name_prefix=f"img_shm_{OWN}"
        )
        self.digest = kinship(self.settings, NAMESPACE)
        self.pushed: Counter[bytes] = Counter()  # how often each payload was sent
        self.committed: Counter[bytes] = Counter()  # how often it became a result
        self.superseded: Counter[bytes] = Counter()  # how often a newer result was out
        self.order: dict[bytes, int] = {}  # when a payload was first claimed
        self.unordered: set[bytes] = set()  # those whose first claim is in no books
        self.newest: dict[str, int] = {}  # of a request: the latest of those that were committed
        self.written: dict[str, bytes] = {}  # result segment -> its payload
        self.fetched: set[str] = set()  # segments that the consumer has taken over
        self.expired: set[str] = set()  # segments whose time is over, so that they may go unread
        self.dead_workers: list[str] = []
        self.numbers = 0
        self.is_sound = True  # so far; otherwise the end is of no interest
        self.workers = [self.new_worker(), self.new_worker()]

    # -- underneath ---------------------------------------------------------------------------

    def run(self, step: Coroutine[Any, Any, Reply]) -> Reply:
        return self.runner.run(asyncio.wait_for(step, 10))

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def new_worker(self) -> Worker:
        async def start() -> Worker:
            worker = Worker(self.settings, self.number(), self.digest)
            await worker.queues.register()
            return worker

        return self.run(start())

    def hold(self, worker: Worker, claims: list[Claim]) -> None:
        if not claims:
            return
        standings = self.run(worker.queues.enter(claims))
        for claim, standing in zip(claims, standings, strict=True):
            request_id = json.loads(claim.payload)["request_id"]
            worker.hands.append(Hand(claim, request_id, standing.superseded))
            self.order.setdefault(claim.payload, self.number())

    def record(self, hand: Hand) -> float | None:
        """The score of a hand's result in the set of segments."""
        member = f"{hand.segment} {hand.request_id}"
        score: float | None = self.redis.zscore(keys.segments(NAMESPACE), member)
        return score

    def results(self) -> dict[str, str]:
        return State(self.redis, self.settings).results

    def has_queued(self) -> bool:
        return bool(self.redis.exists(*map(self.settings.queue, Kind)))

    def send(self, payload: bytes, kind: Kind) -> None:
        self.redis.rpush(self.settings.queue(kind), payload)
        self.pushed[payload] += 1

    # -- producers and consumers --------------------------------------------------------------

    @rule(request_id=REQUESTS, kind=KINDS)
    def a_job_is_sent(self, request_id: str, kind: Kind) -> None:
        names = [f"img_shm_{OWN}in{self.number()}" for _ in range(2)]
        for name in names:
            shm.write(name, BYTE, 0o600)
        message = {
            "request_id": request_id,
            "preprocessed_img_shm_info": {"shm_name": names[0]},
            "preprocessed_mask_shm_info": {"shm_name": names[1]},
        }
        self.send(json.dumps(message).encode(), kind)

    @precondition(lambda self: self.pushed)
    @rule(index=INDEX, kind=KINDS)
    def a_message_is_sent_again(self, index: int, kind: Kind) -> None:
        self.send(list(self.pushed)[index % len(self.pushed)], kind)

    @precondition(lambda self: self.results())
    @rule(request_id=REQUESTS)
    def a_result_is_fetched(self, request_id: str) -> None:
        if segment := self.results().get(request_id):
            self.redis.delete(keys.result(request_id))
            self.fetched.add(segment)

    @precondition(lambda self: self.fetched)
    @rule(index=INDEX)
    def a_fetched_result_is_read_and_unlinked(self, index: int) -> None:
        segment = sorted(self.fetched)[index % len(self.fetched)]
        assert shm.unlink(segment, UIDS), "somebody removed what the consumer had taken over"
        self.fetched.remove(segment)

    # -- workers ------------------------------------------------------------------------------

    @precondition(lambda self: self.has_queued())
    @rule(at=WORKERS, kind=KINDS, count=st.integers(1, 2))
    def jobs_are_claimed(self, at: int, kind: Kind, count: int) -> None:
        worker = self.workers[at]
        self.hold(worker, self.run(worker.queues.take(kind, count)))

    @precondition(lambda self: self.has_queued())
    @rule(at=WORKERS, kind=KINDS)
    def a_claim_loses_its_reply(self, at: int, kind: Kind) -> None:
        """Only a worker in the set of workers dies with it: any other enters it at once."""
        worker = self.workers[at].identity.worker
        if self.redis.sismember(keys.workers(NAMESPACE), worker):
            self.move_unheard(worker, kind)

    def move_unheard(self, worker: str, kind: Kind) -> None:
        """A claim that nobody enters into the books: its place among others is not known."""
        processing = keys.processing(worker, kind)
        payload = self.redis.lmove(self.settings.queue(kind), processing)
        if payload and payload not in self.order:
            self.unordered.add(payload)

    @rule(at=WORKERS)
    def a_worker_reconciles(self, at: int) -> None:
        worker = self.workers[at]
        self.hold(worker, self.run(worker.queues.reconcile()))

    def hands(self, *stages: str) -> list[tuple[Worker, Hand]]:
        """What the workers have in memory that has got so far."""
        return [
            (worker, hand)
            for worker in self.workers
            for hand in worker.hands
            if hand.stage in stages
        ]

    def choose(self, index: int, *stages: str) -> tuple[Worker, Hand]:
        hands = self.hands(*stages)
        return hands[index % len(hands)]

    @precondition(lambda self: self.hands("claimed"))
    @rule(index=INDEX)
    def a_job_is_loaded(self, index: int) -> None:
        self.load(self.choose(index, "claimed")[1])

    def load(self, hand: Hand) -> None:
        names = input_names(hand.claim.payload, self.settings)
        hand.loaded = all(Path("/dev/shm", name).exists() for name in names)

    @precondition(lambda self: self.hands("loaded"))
    @rule(index=INDEX)
    def a_result_is_written(self, index: int) -> None:
        self.write(*self.choose(index, "loaded"))

    def write(self, worker: Worker, hand: Hand) -> None:
        start = self.start_of(worker.identity.worker, hand.claim.payload)
        hand.segment = f"{start}{worker.counter}"
        worker.counter += 1
        shm.write(hand.segment, BYTE, 0o600)
        self.written[hand.segment] = hand.claim.payload

    @rule(at=WORKERS, request_id=REQUESTS, kind=KINDS, is_sent_twice=st.booleans())
    def a_batch_begins(self, at: int, request_id: str, kind: Kind, is_sent_twice: bool) -> None:
        """The usual beginning as one step, so that histories get further."""
        self.a_job_is_sent(request_id, kind)
        if is_sent_twice:
            self.a_message_is_sent_again(-1, kind)
        self.jobs_are_claimed(at, kind, 2)
        for hand in self.workers[at].hands:
            if hand.stage == "claimed":
                self.load(hand)
            if hand.stage == "loaded":
                self.write(self.workers[at], hand)

    @precondition(lambda self: self.hands("written"))
    @rule(index=INDEX, is_reply_lost=RARELY)
    def a_result_is_committed(self, index: int, is_reply_lost: bool) -> None:
        self.commit(*self.choose(index, "written"), is_reply_lost)

    def commit(self, worker: Worker, hand: Hand, is_reply_lost: bool) -> None:
        """After a lost reply the hand is as before, and the commit is repeated some time."""
        before = self.record(hand)
        info = json.dumps({"shm_name": hand.segment})
        outcome, replaced = self.run(
            worker.finish(
                hand,
                worker.queues.commit(
                    hand.claim, hand.request_id, hand.segment, {"inpaint_shm_info": info}
                ),
                is_reply_lost,
            )
        )
        if before is None and outcome is Outcome.COMMITTED:
            self.enter_commit(hand)
        if before is None and outcome is Outcome.SUPERSEDED:
            self.superseded[hand.claim.payload] += 1
        if is_reply_lost:
            return
        hand.decided = True
        if outcome is not Outcome.COMMITTED:
            hand.todo = [("unlink", hand.segment)]
            if outcome is Outcome.SUPERSEDED:
                hand.todo.append(("forget", hand.segment))
                self.clean_superseded(hand)
            return
        if replaced:
            hand.todo += [("unlink", replaced), ("forget", replaced)]
        for name in input_names(hand.claim.payload, self.settings):
            hand.todo.append(("unlink", name))
        hand.todo.append(("cleaned", hand.segment))

    def enter_commit(self, hand: Hand) -> None:
        payload = hand.claim.payload
        self.committed[payload] += 1
        if (
            self.pushed[payload] == 1 and payload not in self.unordered
        ):  # otherwise nobody can tell which of the copies was claimed
            newest = self.newest.get(hand.request_id, 0)
            assert self.order[payload] > newest, "an older submission replaced a newer result"
            self.newest[hand.request_id] = self.order[payload]

    def clean_superseded(self, hand: Hand) -> None:
        names = input_names(hand.claim.payload, self.settings)
        hand.todo += [("unlink", name) for name in names]
        hand.todo.append(("cleaned", ""))

    @precondition(lambda self: self.hands("superseded"))
    @rule(index=INDEX, is_reply_lost=RARELY)
    def a_superseded_job_is_finished(self, index: int, is_reply_lost: bool) -> None:
        self.supersede(*self.choose(index, "superseded"), is_reply_lost)

    def supersede(self, worker: Worker, hand: Hand, is_reply_lost: bool) -> None:
        is_repeated = hand.is_reply_lost
        step = worker.queues.supersede(hand.claim)
        outcome = self.run(worker.finish(hand, step, is_reply_lost))
        if outcome is Outcome.SUPERSEDED and not is_repeated:
            self.superseded[hand.claim.payload] += 1
        if is_reply_lost:
            return
        hand.decided = True
        if outcome is Outcome.SUPERSEDED:
            self.clean_superseded(hand)

    @precondition(lambda self: self.hands("decided"))
    @rule(index=INDEX, steps=st.integers(1, 4))
    def a_decided_job_goes_further(self, index: int, steps: int) -> None:
        worker, hand = self.choose(index, "decided")
        for _ in range(min(steps, len(hand.todo))):
            self.step_of(worker, hand)
        if not hand.todo:
            worker.hands.remove(hand)

    def step_of(self, worker: Worker, hand: Hand) -> None:
        step, name = hand.todo.pop(0)
        if step == "unlink":
            shm.unlink(name, UIDS)
        elif step == "forget":
            self.run(worker.queues.forget_replaced(hand.request_id, name))
        else:
            member = f"{name} {hand.request_id}" if name else ""
            self.run(worker.queues.drop_cleanup_entry(hand.claim, member))

    @precondition(lambda self: self.hands("claimed", "loaded", "failing"))
    @rule(index=INDEX, fate=st.sampled_from(["fail", "retry", "postpone"]), is_reply_lost=RARELY)
    def a_job_fails(self, index: int, fate: str, is_reply_lost: bool) -> None:
        """A job that has failed has written no result, nor will it."""
        worker, hand = self.choose(index, "claimed", "loaded", "failing")
        self.fail(worker, hand, hand.failing or fate, is_reply_lost)

    def fail(self, worker: Worker, hand: Hand, fate: str, is_reply_lost: bool) -> None:
        step: Coroutine[Any, Any, Outcome]
        if fate == "fail":
            error = BadMessage("bad_values", "a test")
            step = worker.queues.fail(hand.claim, error, 1, (hand.request_id, ""))
        else:
            delay_s = 100 if fate == "retry" else 0
            step = worker.queues.retry(hand.claim, counted=fate == "retry", delay_s=delay_s)
        is_repeated = hand.is_reply_lost
        outcome = self.run(worker.finish(hand, step, is_reply_lost))
        if outcome is Outcome.SUPERSEDED and not is_repeated:
            self.superseded[hand.claim.payload] += 1
        if is_reply_lost:
            hand.failing = fate
        elif outcome is Outcome.SUPERSEDED:
            hand.decided, hand.failing = True, ""
            self.clean_superseded(hand)
        else:
            worker.hands.remove(hand)

    @rule()
    def jobs_have_waited_long_enough(self) -> None:
        for kind in Kind:
            key = keys.delayed(self.settings.queue(kind))
            for member in self.redis.zrange(key, 0, -1):
                self.redis.zadd(key, {member: 1}, xx=True)
            self.run(self.workers[0].queues.promote(kind))

    @precondition(lambda self: self.hands("claimed", "loaded"))
    @rule(at=WORKERS)
    def unstarted_jobs_are_put_back(self, at: int) -> None:
        worker = self.workers[at]
        unstarted = [hand for hand in worker.hands if hand.stage in ("claimed", "loaded")]
        self.run(worker.queues.release([hand.claim for hand in unstarted]))
        worker.hands = [hand for hand in worker.hands if hand not in unstarted]

    # -- what goes wrong with workers -----------------------------------------------------------

    @rule(at=WORKERS)
    def a_worker_gives_everything_back_and_ends(self, at: int) -> None:
        """As after a device fault, a second signal, or at the end of the grace time."""
        worker = self.workers[at]
        if worker.stalled is not None:
            self.run(worker.stalled.die())

        async def end() -> None:
            recovery = Recovery(worker.settings, worker.identity, Link(worker.settings))
            await recovery.give_back_own()
            await recovery.close()
            await worker.queues.deregister()
            await worker.queues.close()

        self.run(end())
        self.workers[at] = self.new_worker()

    @precondition(lambda self: self.has_queued())
    @rule(kind=KINDS, count=st.integers(1, 2))
    def a_worker_elsewhere_vanishes_with_its_shared_memory(self, kind: Kind, count: int) -> None:
        """It was the last of its namespace, for so long that the next pass dissolves that."""
        digest = kinship(self.settings, ELSEWHERE)
        number = self.number()
        worker = f"host-{number}-{digest}{number:08x}"
        queues = Queues(self.settings, Identity(worker, ELSEWHERE, "host", number, 0))

        async def live_and_die() -> list[Claim]:
            await queues.register()
            if claims := await queues.take(kind, count):
                await queues.enter(claims)
            await queues.close()
            return claims

        for claim in self.run(live_and_die()):
            self.order.setdefault(claim.payload, self.number())
        self.redis.delete(keys.heartbeat(worker))
        self.redis.hset(keys.CREWS, f"{ELSEWHERE} {digest} seen", 1)

    @rule(at=WORKERS)
    def a_worker_crashes_and_a_new_one_starts(self, at: int) -> None:
        worker = self.workers[at]
        self.dead_workers.append(worker.identity.worker)
        if worker.stalled is not None:
            self.run(worker.stalled.die())
        self.run(worker.queues.close())
        self.redis.delete(keys.heartbeat(worker.identity.worker))
        self.workers[at] = self.new_worker()

    @precondition(lambda self: self.dead_workers and self.has_queued())
    @rule(index=INDEX, kind=KINDS)
    def the_claim_of_a_dead_worker_arrives_late(self, index: int, kind: Kind) -> None:
        """The network held it back until everything that the worker left was recovered."""
        self.move_unheard(self.dead_workers[index % len(self.dead_workers)], kind)

    @rule(at=WORKERS)
    def a_heartbeat_is_late(self, at: int) -> None:
        self.redis.delete(keys.heartbeat(self.workers[at].identity.worker))

    @rule(at=WORKERS)
    def a_living_worker_is_taken_for_dead(self, at: int) -> None:
        self.a_heartbeat_is_late(at)
        self.reap(self.workers[1 - at])

    @precondition(lambda self: self.hands("written"))
    @rule(at=WORKERS, kind=KINDS)
    def a_frozen_worker_thaws_and_claims_again(self, at: int, kind: Kind) -> None:
        self.a_living_worker_is_taken_for_dead(at)
        self.jobs_are_claimed(at, kind, 2)

    @rule(at=WORKERS)
    def a_worker_finds_its_heartbeat_gone_and_registers_again(self, at: int) -> None:
        self.run(self.workers[at].queues.register())

    # -- reapers --------------------------------------------------------------------------------

    @rule(at=WORKERS)
    def a_reaper_makes_a_pass(self, at: int) -> None:
        self.reap(self.workers[at])

    @rule(at=WORKERS, calls=st.integers(1, 14))
    def a_reaper_dies_half_way(self, at: int, calls: int) -> None:
        self.reap(self.workers[at], calls)

    @precondition(lambda self: not all(worker.stalled for worker in self.workers))
    @rule(at=WORKERS, calls=st.integers(1, 14))
    def a_reaper_stalls_half_way(self, at: int, calls: int) -> None:
        worker = self.workers[at]
        if worker.stalled is not None:
            return

        async def start() -> Pass | None:
            running = Pass(worker, calls, stalls=True)
            return None if await running.start() else running

        worker.stalled = self.run(start())

    @precondition(lambda self: any(worker.stalled for worker in self.workers))
    @rule(at=WORKERS)
    def a_stalled_reaper_goes_on(self, at: int) -> None:
        worker = self.workers[at]
        if worker.stalled is not None:
            self.run(worker.stalled.go_on())
            worker.stalled = None

    def reap(self, worker: Worker, calls: int | None = None) -> None:
        async def one_pass() -> None:
            await Pass(worker, calls).start()

        self.run(one_pass())

    @rule(index=INDEX)
    def the_time_of_a_result_is_over(self, index: int) -> None:
        members = self.redis.zrangebyscore(keys.segments(NAMESPACE), 1, "+inf")
        if members:
            member = members[index % len(members)]
            self.expire(member)

    def expire(self, member: bytes) -> None:
        self.redis.zadd(keys.segments(NAMESPACE), {member: int(time.time()) - 1}, xx=True)
        self.expired.add(member.decode().split(" ")[0])

    # -- what holds after every step --------------------------------------------------------------

    @invariant()
    def nothing_is_lost_or_left_behind(self) -> None:
        state = State(self.redis, self.settings)
        existing = segments()
        self.is_sound = False
        self.every_job_is_in_exactly_one_place(state)
        self.every_worker_that_holds_jobs_is_known(state)
        self.no_result_is_lost(state, existing)
        self.every_segment_has_somebody_who_will_remove_it(state, existing)
        self.is_sound = True

    def every_job_is_in_exactly_one_place(self, state: State) -> None:
        places = self.committed + self.superseded
        for payloads in (*state.queued, *state.processing.values(), state.dead):
            places.update(payloads)
        assert places == self.pushed

    def every_worker_that_holds_jobs_is_known(self, state: State) -> None:
        """Dead ones that got another job are searched for."""
        elsewhere = {one.decode() for one in self.redis.smembers(keys.workers(ELSEWHERE))}
        known = state.known | elsewhere | {*self.dead_workers}
        assert {*state.processing} <= known, "nobody will look for a worker"
        assert {*state.cleanup} <= state.known, "nobody will look for a worker"

    def no_result_is_lost(self, state: State, existing: set[str]) -> None:
        gone = {*state.results.values()} - existing - self.expired
        assert not gone, "results name segments that are gone"
        assert self.fetched <= existing, "the consumer's segments were removed"

    def every_segment_has_somebody_who_will_remove_it(
        self, state: State, existing: set[str]
    ) -> None:
        """Whoever holds the job, whoever has the result, or a reaper that finds its mark."""
        lists = (*state.queued, state.dead, *state.processing.values(), *state.cleanup.values())
        live = {payload for payloads in lists for payload in payloads}
        inputs = {name for payload in live for name in input_names(payload, self.settings)}
        hands = [hand for worker in self.workers for hand in worker.hands]
        in_memory = {name for hand in hands for _, name in (("", hand.segment), *hand.todo)}
        uncommitted = {
            segment
            for segment, payload in self.written.items()
            for worker, payloads in state.processing.items()
            if payload in payloads and segment.startswith(self.start_of(worker, payload))
        }
        results = {*state.results.values(), *self.fetched}
        known = inputs | in_memory | uncommitted | results | state.marked
        late = {name for name in existing if name.rpartition("-")[0] + "-" in state.marked}
        assert not existing - known - late, "segments that nobody will remove"
        for payload in self.pushed:
            if not (self.committed[payload] or self.superseded[payload]):
                needed = {*input_names(payload, self.settings)}
                assert needed <= existing, "inputs were removed before their job was done"

    def start_of(self, worker: str, payload: bytes) -> str:
        return result_name_start(self.settings, worker.removesuffix(GHOST), payload)

    # -- the end ----------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.is_sound:
                self.recover_everything()
                self.nothing_is_left()
        finally:
            for worker in self.workers:
                if worker.stalled is not None:
                    self.run(worker.stalled.die())
                self.run(worker.queues.close())
            self.runner.close()
            self.redis.close()
            shm.unlink_all(segments(), UIDS)

    def recover_everything(self) -> None:
        """All workers crash; a new one and the consumer do what is left to do."""
        for at in (0, 1):
            self.a_worker_crashes_and_a_new_one_starts(at)
        self.reap(self.workers[0])
        self.jobs_have_waited_long_enough()
        while self.has_queued():
            for kind in Kind:
                self.jobs_are_claimed(0, kind, 2)
            worker = self.workers[0]
            for hand in list(worker.hands):
                if hand.stage == "superseded":
                    self.supersede(worker, hand, False)
                    while hand.todo:
                        self.step_of(worker, hand)
                    worker.hands.remove(hand)
                    continue
                self.load(hand)
                if not hand.loaded:
                    self.fail(worker, hand, "fail", False)
                    continue
                self.write(worker, hand)
                self.commit(worker, hand, False)
                while hand.todo:
                    self.step_of(worker, hand)
                worker.hands.remove(hand)

    def nothing_is_left(self) -> None:
        """Once the consumer has everything and all times are over."""
        self.nothing_is_lost_or_left_behind()
        state = State(self.redis, self.settings)
        assert not state.processing
        assert not state.cleanup
        assert not self.redis.exists(keys.ATTEMPTS), "attempts of jobs that are done"
        assert not self.redis.exists(keys.SUBMISSIONS), "submissions of jobs that are done"
        assert not self.redis.keys("inpainting:claims:*"), "claims of jobs that are done"
        for request_id in state.results:
            self.a_result_is_fetched(request_id)
        while self.fetched:
            self.a_fetched_result_is_read_and_unlinked(0)
        for member in self.redis.zrange(keys.segments(NAMESPACE), 0, -1):
            self.expire(member)
        # Dead jobs whose time is over, too.
        worker = self.workers[0]
        worker.settings = self.settings.model_copy(update={"dead_ttl_s": -10.0})
        self.reap(worker)
        assert not segments(), "segments were left behind"
        left = {key.decode().split(":")[1] for key in self.redis.scan_iter("inpainting:*")}
        assert left <= {"worker", "workers", "crews"}
        assert not any(ELSEWHERE.encode() in name for name in self.redis.hkeys(keys.CREWS))


@pytest.mark.parametrize("version", ["server", "oldest_server"])
@pytest.mark.timeout(0 if "STATE_MACHINE_EXAMPLES" in os.environ else 240)
def test_whatever_happens_no_job_no_result_and_no_segment_is_lost(
    version: str, request: pytest.FixtureRequest, shm_baseline: None
) -> None:
    server: RedisServer = request.getfixturevalue(version)

    class Bound(Delivery):
        url = server.url

    wanted = os.environ.get("STATE_MACHINE_EXAMPLES")
    run_state_machine_as_test(
        Bound,
        settings=hypothesis_settings(
            max_examples=int(wanted or 70),
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=wanted is None,
            phases=[Phase.generate, Phase.shrink] if "SHRINK" in os.environ else [Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
