"""What the histories know of jobs and segments; senders and receivers."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import numpy as np
import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
)

from core import keys
from core.claims import Claim
from core.config import Settings
from core.contract import result_name_start
from core.identity import crew_of
from core.keys import Kind
from core.pixels import shm
from core.recovery.reaping import GHOST
from harness.workers import OWN
from tests.core.histories.actors import NAMESPACE, Hand, Reply, State, Worker

UIDS = frozenset({os.geteuid()})
BYTE = np.zeros(1, np.uint8)

WORKERS = st.integers(0, 1)
KINDS = st.sampled_from([Kind.LONG, Kind.LONG, Kind.LONG, Kind.SHORT])
REQUESTS = st.sampled_from(["r0", "r1", "a request"])
INDEX = st.integers(0, 3)  # of what there is to choose from, modulo its length
RARELY = st.sampled_from([False, False, False, True])


class World(RuleBasedStateMachine):
    """The programs around Redis and what the test knows of them; the truth is in Redis."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.redis: Any = redis.Redis.from_url(self.url, protocol=2)
        self.redis.flushall()
        self.runner = asyncio.Runner()
        self.settings = Settings(
            _env_file=None,
            redis_url=self.url,
            shm_name_prefix=f"img_shm_{OWN}",
            result_queue="outcomes",
        )
        self.digest = crew_of(self.settings.queues, NAMESPACE).kinship
        self.pushed: Counter[bytes] = Counter()  # how often each payload was sent
        self.committed: Counter[bytes] = Counter()  # how often it became a result
        self.superseded: Counter[bytes] = Counter()  # how often a newer result was out
        self.lapsed: Counter[bytes] = Counter()  # how often it expired
        self.failed: Counter[str] = Counter()  # of a request: failures that were published
        self.order: dict[bytes, int] = {}  # when a payload was first claimed
        self.unordered: set[bytes] = set()  # those whose first claim was not recorded
        self.newest: dict[str, int] = {}  # of a request: the latest of those that were committed
        self.written: dict[str, bytes] = {}  # result segment -> its payload
        self.fetched: set[str] = set()  # segments that the receiver has taken over
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

    def take_up(self, worker: Worker, claims: list[Claim]) -> None:
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

    def start_of(self, worker: str, payload: bytes) -> str:
        return result_name_start(
            worker.removesuffix(GHOST), payload, prefix=self.settings.shm_name_prefix
        )

    def has_queued(self) -> bool:
        return bool(self.redis.exists(*map(self.settings.queue, Kind)))

    def send(self, payload: bytes, kind: Kind) -> None:
        self.redis.rpush(self.settings.queue(kind), payload)
        self.pushed[payload] += 1

    # -- senders and receivers --------------------------------------------------------------

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
        assert shm.unlink(segment, UIDS), "somebody removed what the receiver had taken over"
        self.fetched.remove(segment)
