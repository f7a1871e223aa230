"""A worker killed at any of its fault points loses nothing: another one finishes what it had.

Each point has a scenario that leads there; a point without one fails the first test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import keys
from core.faults import Fault, parse
from harness import ROOT
from harness.jobs import CANVAS
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline, page
from harness.workers import SOON, StartWorker, Worker, segments

#: How long the jobs of a dead worker may take another one.
LONGEST_S = SOON["HEARTBEAT_TTL_S"] + 10


class Stage:
    """What a scenario can do."""

    def __init__(
        self,
        fault: Fault,
        pipeline: Pipeline,
        client: RedisClient,
        start_worker: StartWorker,
        make_hold: Callable[[], Path],
    ) -> None:
        self.fault = fault
        self.pipeline = pipeline
        self.client = client
        self.start_worker = start_worker
        self.make_hold = make_hold

    def send(self, seed: int = 1, **options: Any) -> str:
        """A job that is to be done."""
        return self.pipeline.submit(*page(60, 90, seed), "long", canvas=CANVAS, **options)

    def start_victim(self, fault: Fault | None = None, **settings: object) -> Worker:
        """A worker that is to die at the scenario's fault, or at another one."""
        armed = {"FAULT_POINT": fault or self.fault, "INPAINTING_BATCH_SIZE_LONG": 2}
        return self.start_worker(ready=False, **{**SOON, **armed, **settings})

    def see_die(self, victim: Worker) -> None:
        """Wait for its death."""
        assert victim.wait() == -signal.SIGKILL, victim.output

    def rescue(self, *requests: str, **settings: object) -> None:
        """Another worker delivers these requests in time and leaves nothing undone."""
        rescuer = self.start_worker(**{**SOON, **settings})
        began = time.monotonic()  # how long a Python process takes to start is not the question
        for request in requests:
            assert self.pipeline.fetch(request).shape == (60, 90, 3)
        assert time.monotonic() - began < LONGEST_S
        wait_until(self.is_idle, "nothing is in hand or to be cleaned up")
        wait_until(self.knows_one_worker, "the dead are struck off")
        assert rescuer.stop() == 0
        assert not self.client.exists(keys.ATTEMPTS)
        # The heartbeat of a worker that died as it said goodbye ends by itself.
        wait_until(lambda: self.kinds_of_keys() <= LASTING, "none is left")

    def kinds_of_keys(self) -> set[str]:
        return {key.decode().split(":")[1] for key in self.client.scan_iter("inpainting:*")}

    def knows_one_worker(self) -> bool:
        (members,) = self.client.scan_iter("inpainting:workers:*")
        return self.client.scard(members) == 1

    def is_idle(self) -> bool:
        lists = [f"inpainting:{name}:*" for name in ("processing", "cleanup")]
        return not self.client.exists(LONG) and not any(
            True for pattern in lists for _ in self.client.scan_iter(pattern)
        )


#: Kinds of keys that may last after a crash.
LASTING = {"segments", "reaper", "dead", "crews"}


def a_job_is_done(stage: Stage) -> None:
    request = stage.send()
    stage.see_die(stage.start_victim())
    stage.rescue(request)
    assert not segments()


def a_result_replaces_another(stage: Stage) -> None:
    stage.send(request_id="again")
    victim = stage.start_victim()
    wait_until(lambda: stage.client.exists("inpainting_result:again"), "there is a result")
    wait_until(stage.is_idle, "it is cleaned up after")
    stage.send(2, request_id="again")
    stage.see_die(victim)
    stage.rescue("again")
    assert not segments()


def a_message_is_given_up(stage: Stage) -> None:
    stage.send(padding_info=[0, 0, 0, 96])
    stage.see_die(stage.start_victim())
    stage.rescue()
    assert stage.client.llen(keys.DEAD) == 1
    stage.pipeline.close()


def a_job_is_tried_again(stage: Stage) -> None:
    message = stage.pipeline.message(*page(60, 90, 1), "long", canvas=CANVAS)
    name = message["preprocessed_mask_shm_info"]["shm_name"]
    os.rename(f"/dev/shm/{name}", f"/dev/shm/{name}.hidden")
    stage.pipeline.push(message, "long")
    stage.see_die(stage.start_victim())
    os.rename(f"/dev/shm/{name}.hidden", f"/dev/shm/{name}")
    stage.rescue(message["request_id"])
    assert not segments()


def a_busy_worker_is_stopped(stage: Stage) -> None:
    requests = [stage.send(seed) for seed in range(6)]
    hold = stage.make_hold()
    victim = stage.start_victim(STUB_HOLD=hold)
    processing = "inpainting:processing:*"
    wait_until(
        lambda: sum(map(stage.client.llen, stage.client.scan_iter(processing))) == 4,
        "a batch is computed and one is claimed ahead",
    )
    victim.send_signal(signal.SIGTERM)
    victim.wait_for_line("no more claims")
    hold.unlink()
    stage.see_die(victim)
    stage.rescue(*requests)
    assert not segments()


def a_result_is_left_by_a_dead_worker(stage: Stage) -> None:
    request = stage.send()
    stage.see_die(stage.start_victim(Fault.SEGMENT_WRITTEN))
    assert len(segments()) == 3
    stage.see_die(stage.start_victim())
    stage.rescue(request)
    assert not segments()


def inputs_are_left_by_a_dead_worker(stage: Stage) -> None:
    request = stage.send()
    stage.see_die(stage.start_victim(Fault.COMMITTED))
    stage.see_die(stage.start_victim())
    stage.rescue(request)
    assert not segments()


def nobody_fetches_a_result(stage: Stage) -> None:
    stage.send()
    stage.see_die(stage.start_victim(RESULT_TTL_S=0.1))
    assert len(segments()) == 1
    stage.rescue()
    wait_until(lambda: not segments(), "the segment is unlinked")


def a_dead_job_expires(stage: Stage) -> None:
    stage.send(padding_info=[0, 0, 0, 96])
    stage.see_die(stage.start_victim(DEAD_TTL_S=0.1))
    assert not segments()
    stage.rescue(DEAD_TTL_S=0.1)
    wait_until(lambda: not stage.client.exists(keys.DEAD), "its entry is removed")


def a_job_expires(stage: Stage) -> None:
    request = stage.send(expires_at=1)
    stage.see_die(stage.start_victim())
    assert stage.pipeline.result(request)["reason"] == "expired"
    assert len(segments()) == 2
    stage.rescue()
    assert not segments()


SCENARIOS: dict[Callable[[Stage], None], set[Fault]] = {
    a_job_is_done: {
        Fault.REGISTERED,
        Fault.CLAIMED,
        Fault.LOADED,
        Fault.INFERRED,
        Fault.SEGMENT_CREATED,
        Fault.SEGMENT_RESERVED,
        Fault.SEGMENT_WRITTEN,
        Fault.COMMITTED,
        Fault.UNLINKED,
        Fault.INPUTS_UNLINKED,
        Fault.CLEANED,
    },
    a_result_replaces_another: {Fault.REPLACED_UNLINKED},
    a_message_is_given_up: {Fault.FAILING, Fault.FAILED},
    a_job_is_tried_again: {Fault.DELAYED, Fault.RETRIED},
    a_busy_worker_is_stopped: {Fault.STOPPED, Fault.RELEASED, Fault.STRUCK_OFF},
    a_result_is_left_by_a_dead_worker: {Fault.FENCED, Fault.BARRED, Fault.REQUEUED},
    inputs_are_left_by_a_dead_worker: {Fault.CLEANUP_UNLINKED},
    nobody_fetches_a_result: {Fault.EXPIRED},
    a_job_expires: {Fault.LAPSED},
    a_dead_job_expires: {Fault.DEAD_EXPIRED},
}


def test_every_fault_point_has_a_scenario() -> None:
    assert set.union(*SCENARIOS.values()) == set(Fault)


@pytest.mark.parametrize(
    ("fault", "scenario"),
    [(fault, scenario) for scenario, faults in SCENARIOS.items() for fault in sorted(faults)],
)
def test_a_worker_killed_at_a_fault_point_loses_nothing_and_leaves_nothing(
    fault: Fault,
    scenario: Callable[[Stage], None],
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    scenario(Stage(fault, pipeline, client, start_worker, make_hold))


def test_a_fault_point_may_be_reached_often_before_it_kills() -> None:
    assert parse("claimed") == (Fault.CLAIMED, 1)
    assert parse("segment-written:12") == (Fault.SEGMENT_WRITTEN, 12)


@pytest.mark.parametrize("value", ["nowhere", "claimed:0", "claimed:x", ":1"])
def test_a_fault_point_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="FAULT_POINT"):
        parse(value)


def test_a_wrong_fault_point_ends_the_program_with_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "worker.py"), "status"],
        env={**os.environ, "FAULT_POINT": "nowhere"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("FAULT_POINT='nowhere' must be one of registered, ")
    assert done.stderr.count("\n") == 1
