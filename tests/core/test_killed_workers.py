"""Real workers that are killed, frozen or taken for dead: their jobs are done, once."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from core import keys
from core.config import Settings
from core.contract import result_name_start
from core.identity import current_namespace
from harness.jobs import send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import Pipeline
from harness.workers import SOON, OwnPipeline, StartWorker, segments, worker_id


def test_jobs_of_a_killed_worker_are_done_by_another(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    requests = [send(pipeline, seed=seed) for seed in range(6)]
    victim = start_worker(STUB_HOLD=make_hold(), INPAINTING_BATCH_SIZE_LONG=2, **SOON)
    wait_until(
        lambda: client.llen(f"inpainting:processing:{worker_id(client, victim)}:long") == 4,
        "a batch is computed and one is claimed ahead",
    )
    victim.kill()
    rescuer = start_worker(**SOON)
    for request_id in requests:
        assert pipeline.fetch(request_id).shape == (60, 90, 3)
    rescuer.wait_for_line("recovered 4 long jobs")
    assert rescuer.stop() == 0
    left = {key.decode().split(":")[1] for key in client.scan_iter("inpainting:*")}
    assert left <= {"segments", "reaper", "crews"}


def test_a_picture_that_kills_workers_is_dead_in_the_end_and_its_batch_mates_are_not(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    mates = [send(pipeline, seed=1), send(pipeline, "short", seed=2)]
    send(pipeline, image_id="kill.jpg", request_id="killer")
    mates += [send(pipeline, seed=3), send(pipeline, "short", seed=4)]
    for _ in range(3):
        assert start_worker(**SOON).wait() == -signal.SIGKILL
    start_worker(**SOON)
    for mate in mates:
        assert pipeline.fetch(mate).shape == (60, 90, 3)
    wait_until(lambda: client.llen(keys.DEAD), "the killer is dead")
    (entry,) = (json.loads(entry) for entry in client.lrange(keys.DEAD, 0, -1))
    assert (entry["reason"], entry["attempts"]) == ("crashed", 3)
    assert client.hget("inpainting_result:killer", "status") == b"failed"
    assert not client.exists(keys.ATTEMPTS)
    pipeline.close()


def test_workers_whose_heartbeats_expired_in_an_outage_are_not_taken_for_dead(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    slow = {"HEARTBEAT_INTERVAL_S": 0.5, "HEARTBEAT_TTL_S": 1, "REAP_INTERVAL_S": 0.2}
    with RedisServer(append_only=True) as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        busy = start_worker(REDIS_URL=server.url, STUB_HOLD=hold, **slow)
        request_id = send(pipeline)
        busy.wait_for_line("taken from")
        other = start_worker(REDIS_URL=server.url, **slow)
        server.stop()
        time.sleep(1.5)  # longer than a heartbeat lives
        server.start()
        for worker in (busy, other):
            worker.wait_for_line("the heartbeat was gone")
        time.sleep(1)  # some passes of both
        hold.unlink()
        assert pipeline.fetch(request_id).shape == (60, 90, 3)
        assert "recovered" not in busy.output + other.output


def test_a_worker_frozen_past_its_heartbeat_does_no_harm_when_it_thaws(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    frozen = start_worker(STUB_HOLD=hold, **SOON)
    request_id = send(pipeline)
    frozen.wait_for_line("taken from")
    frozen.send_signal(signal.SIGSTOP)
    start_worker(**SOON)
    assert pipeline.fetch(request_id).shape == (60, 90, 3)
    hold.unlink()
    frozen.send_signal(signal.SIGCONT)
    frozen.wait_for_line("no longer this worker's")
    frozen.wait_for_line("registered")
    assert not client.exists(f"inpainting_result:{request_id}")
    assert frozen.stop() == 0


def test_a_commit_whose_result_was_replaced_before_its_repetition_leaves_no_entry_and_no_input(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
    settings: Settings,
) -> None:
    hold = make_hold()
    worker = start_worker(STUB_HOLD=hold)
    identity = worker_id(client, worker)
    request_id = send(pipeline)
    worker.wait_for_line("taken from")
    payload = client.lpop(f"inpainting:processing:{identity}:long")
    assert payload is not None
    # As the commit of the worker's first segment would have left it, whose reply was lost, when
    # another message of the same request was done meanwhile, and its result fetched.
    first = f"{result_name_start(identity, payload, prefix=settings.shm_name_prefix)}0 {request_id}"
    client.zadd(keys.segments(current_namespace()), {first: -time.time() - 60})
    client.rpush(keys.cleanup(identity), payload)
    hold.unlink()
    wait_until(lambda: not client.exists(keys.cleanup(identity)), "the entry is dropped")
    assert segments() == set()  # the result, and the message's own inputs
    assert not client.exists(f"inpainting_result:{request_id}")
