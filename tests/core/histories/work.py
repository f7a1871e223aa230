"""What workers do: claim, load, write, commit, fail, give back."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
)

from core import keys
from core.claims import Ending
from core.contract import input_names
from core.errors import BadMessage, Expired
from core.keys import Kind
from core.pixels import shm
from tests.core.histories.actors import NAMESPACE, Hand, Worker
from tests.core.histories.world import BYTE, INDEX, KINDS, RARELY, REQUESTS, UIDS, WORKERS, World

#: How a job may fail.
FATES = ("fail", "retry", "postpone", "lapse")


class Work(World):
    """The rules of workers, when nothing goes wrong but replies."""

    @precondition(lambda self: self.has_queued())
    @rule(at=WORKERS, kind=KINDS, count=st.integers(1, 2))
    def jobs_are_claimed(self, at: int, kind: Kind, count: int) -> None:
        worker = self.workers[at]
        self.take_up(worker, self.run(worker.queues.take(kind, count)))

    @precondition(lambda self: self.has_queued())
    @rule(at=WORKERS, kind=KINDS)
    def a_claim_loses_its_reply(self, at: int, kind: Kind) -> None:
        """Only a worker in the set of workers dies with it: any other enters it at once."""
        worker = self.workers[at].identity.worker
        if self.redis.sismember(keys.workers(NAMESPACE), worker):
            self.move_unheard(worker, kind)

    def move_unheard(self, worker: str, kind: Kind) -> None:
        """A claim that nobody records: its place among others is not known."""
        processing = keys.processing(worker, kind)
        payload = self.redis.lmove(self.settings.queue(kind), processing)
        if payload and payload not in self.order:
            self.unordered.add(payload)

    @rule(at=WORKERS)
    def a_worker_reconciles(self, at: int) -> None:
        worker = self.workers[at]
        self.take_up(worker, self.run(worker.queues.reconcile()))

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
        names = input_names(hand.claim.payload, self.settings.wire_format)
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
        if before is None and outcome is Ending.COMMITTED:
            self.enter_commit(hand)
        if before is None and outcome is Ending.SUPERSEDED:
            self.superseded[hand.claim.payload] += 1
        if is_reply_lost:
            return
        hand.decided = True
        if outcome is not Ending.COMMITTED:
            hand.todo = [("unlink", hand.segment)]
            if outcome is Ending.SUPERSEDED:
                hand.todo.append(("forget", hand.segment))
                self.clean_inputs(hand)
            return
        if replaced:
            hand.todo += [("unlink", replaced), ("forget", replaced)]
        for name in input_names(hand.claim.payload, self.settings.wire_format):
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

    def clean_inputs(self, hand: Hand) -> None:
        names = input_names(hand.claim.payload, self.settings.wire_format)
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
        if outcome is Ending.SUPERSEDED and not is_repeated:
            self.superseded[hand.claim.payload] += 1
        if is_reply_lost:
            return
        hand.decided = True
        if outcome is Ending.SUPERSEDED:
            self.clean_inputs(hand)

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
    @rule(index=INDEX, fate=st.sampled_from(FATES), is_reply_lost=RARELY)
    def a_job_fails(self, index: int, fate: str, is_reply_lost: bool) -> None:
        """A job that has failed has written no result, nor will it."""
        worker, hand = self.choose(index, "claimed", "loaded", "failing")
        self.fail(worker, hand, hand.failing or fate, is_reply_lost)

    def fail(self, worker: Worker, hand: Hand, fate: str, is_reply_lost: bool) -> None:
        step: Coroutine[Any, Any, Ending]
        if fate == "fail":
            error = BadMessage("bad_values", "a test")
            step = worker.queues.fail(hand.claim, error, 1, (hand.request_id, ""))
        elif fate == "lapse":
            late = Expired("expired", "a test")
            step = worker.queues.lapse(hand.claim, (hand.request_id, ""), late)
        else:
            delay_s = 100 if fate == "retry" else 0
            step = worker.queues.retry(hand.claim, counted=fate == "retry", delay_s=delay_s)
        is_repeated = hand.is_reply_lost
        has_result = self.redis.hexists(keys.result(hand.request_id), "inpaint_shm_info")
        outcome = self.run(worker.finish(hand, step, is_reply_lost))
        if not is_repeated:
            self.superseded[hand.claim.payload] += outcome is Ending.SUPERSEDED
            self.lapsed[hand.claim.payload] += outcome is Ending.EXPIRED
            is_told = outcome in (Ending.FAILED, Ending.EXPIRED) and not has_result
            self.failed[hand.request_id] += is_told
        if is_reply_lost:
            hand.failing = fate
        elif outcome in (Ending.SUPERSEDED, Ending.EXPIRED):
            hand.decided, hand.failing = True, ""
            self.clean_inputs(hand)
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
