"""Delivery under every order of events: random histories on a real server and real segments.

A history is made of senders, two workers that may crash, freeze, give everything back or lose
replies at any step, a receiver, reapers that stop half-way or stall and go on later, and workers of
another shared memory that vanish with jobs in hand. After each step the whole state is compared
with what delivery promises; at the end everything is recovered and nothing is left.

The suite runs the same histories every time; STATE_MACHINE_EXAMPLES=5000 runs that many new ones.
A history that fails is printed as it was found: with SHRINK=1 it is shortened first, in minutes.
"""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import (
    invariant,
    run_state_machine_as_test,
)

from core import keys
from core.contract import input_names
from core.keys import Kind
from core.pixels import shm
from harness.redis_server import RedisServer
from harness.workers import segments
from tests.core.histories.actors import NAMESPACE, State
from tests.core.histories.mishaps import ELSEWHERE, Mishaps
from tests.core.histories.world import UIDS


class Delivery(Mishaps):
    """What holds after every step, and at the end."""

    @invariant()
    def nothing_is_lost_or_left_behind(self) -> None:
        state = State(self.redis, self.settings)
        existing = segments()
        self.is_sound = False
        self.every_job_is_in_exactly_one_place(state)
        self.every_worker_that_holds_jobs_is_known(state)
        self.no_result_is_lost(state, existing)
        self.every_segment_has_somebody_who_will_remove_it(state, existing)
        self.every_outcome_is_told_once()
        self.is_sound = True

    def every_job_is_in_exactly_one_place(self, state: State) -> None:
        places = self.committed + self.superseded + self.lapsed
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
        assert self.fetched <= existing, "the receiver's segments were removed"

    def every_segment_has_somebody_who_will_remove_it(
        self, state: State, existing: set[str]
    ) -> None:
        """Who has the job, who has the result, or a reaper that finds its mark."""
        lists = (*state.queued, state.dead, *state.processing.values(), *state.cleanup.values())
        live = {payload for payloads in lists for payload in payloads}
        inputs = {
            name for payload in live for name in input_names(payload, self.settings.wire_format)
        }
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
            if not (self.committed + self.superseded + self.lapsed)[payload]:
                needed = {*input_names(payload, self.settings.wire_format)}
                assert needed <= existing, "inputs were removed before their job was done"

    def every_outcome_is_told_once(self) -> None:
        """Each result and each failure that was published, by its request."""
        told: dict[str, Counter[str]] = {"done": Counter(), "failed": Counter()}
        for outcome in map(json.loads, self.redis.lrange(self.settings.result_queue, 0, -1)):
            told[outcome["status"]][outcome["request_id"]] += 1
        committed: Counter[str] = Counter()
        for payload, count in self.committed.items():
            committed[json.loads(payload)["request_id"]] += count
        assert (told["done"], told["failed"]) == (+committed, +self.failed)

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
        """All workers crash; a new one and the receiver do what is left to do."""
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
        """Once the receiver has everything and all times are over."""
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
