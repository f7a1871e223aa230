"""A device that fails, and a process that is ended from outside, are no fault of the jobs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from core import keys
from core.broker.connection import Link
from core.config import Settings
from core.identity import current_identity
from core.recovery.recovery import Recovery
from harness.admin import PORT, Admin
from harness.jobs import CANVAS, dead_entries, processing, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline, page
from harness.workers import OWN, SOON, StartWorker, Worker, segments

#: The waits of a worker whose device is at fault, in tenths of what they are.
IMPATIENT = "core.flow.device_hold.TRY_INTERVAL_S=0.3 core.flow.device_hold.LOOK_INTERVAL_S=0.1"


def queued(client: RedisClient, queue: str = LONG) -> list[str]:
    """The requests in a queue, the first at its head."""
    return [json.loads(payload)["request_id"] for payload in client.lrange(queue, 0, -1)]


def attempts(client: RedisClient) -> dict[str, int]:
    """Attempts by request, for the jobs that are in the long queue."""
    noted = {name.decode(): int(count) for name, count in client.hgetall(keys.ATTEMPTS).items()}
    return {
        json.loads(payload)["request_id"]: noted[keys.sha1(payload)]
        for payload in client.lrange(LONG, 0, -1)
        if keys.sha1(payload) in noted
    }


# -- a device that fails --------------------------------------------------------------------------


def test_a_device_that_fails_in_every_life_of_a_worker_costs_no_job_an_attempt(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    requests = [send(pipeline, seed=seed) for seed in range(20)]
    for _ in range(6):
        worker = start_worker(STUB_BROKEN=broken, ready=False, **SOON)
        assert worker.wait() == 1
        assert not client.exists(keys.ATTEMPTS, keys.DEAD)
        assert processing(client) == 0
    broken.unlink()
    start_worker(STUB_BROKEN=broken, **SOON)
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)
    assert not client.exists(keys.ATTEMPTS, keys.DEAD)


def test_a_device_that_kills_every_worker_costs_one_job_at_most_and_the_rest_waits_for_it(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, tmp_path: Path
) -> None:
    killing = tmp_path / "killing"
    killing.touch()
    settings = {
        "STUB_KILLING": killing,
        "STUB_CONSTANTS": IMPATIENT,
        "INPAINTING_BATCH_SIZE_LONG": 2,
        "MAX_ATTEMPTS": 2,
        **SOON,
    }
    requests = [send(pipeline, seed=seed) for seed in range(6)]
    lives = 0
    while not _is_held(client):
        assert start_worker(ready=False, **settings).wait() == -signal.SIGKILL
        lives += 1
        assert lives < 200  # on a busy machine a worker may die before it recovers anything
    for _ in range(3):  # it is tried again and again
        assert start_worker(ready=False, **settings).wait() == -signal.SIGKILL
    assert len(dead_entries(client)) <= 1
    patient = {**settings, "STUB_CONSTANTS": "core.flow.device_hold.TRY_INTERVAL_S=2"}
    worker = start_worker(ADMIN_PORT=PORT, **patient)
    worker.wait_for_line("the device seems to be at fault")
    reply = Admin(worker).wait_for("/readyz", 503)
    assert "the device seems to be at fault" in reply.text
    killing.unlink()
    lost = {entry["request_id"] for entry in dead_entries(client)}
    for request in requests:
        if request not in lost:
            assert pipeline.fetch(request).shape == (60, 90, 3)
    worker.wait_for_line("a result was delivered: jobs are taken as usual")
    Admin(worker).wait_for("/readyz", 200)
    assert len(lost) <= 1
    pipeline.close()


def _is_held(client: RedisClient) -> bool:
    return any(
        name.endswith(b" fault") and value.startswith(b"held")
        for name, value in client.hgetall(keys.CREWS).items()
    )


def test_a_network_that_fails_at_every_job_costs_one_at_most(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(STUB_CONSTANTS=IMPATIENT, MAX_ATTEMPTS=2)
    requests = [send(pipeline, seed=seed, image_id="explode.jpg") for seed in range(6)]
    worker.wait_for_line("the device seems to be at fault")
    wait_until(lambda: worker.output.count("inference failed for request") > 12, "it goes on")
    assert len(dead_entries(client)) == 1
    good = [send(pipeline, seed=seed) for seed in range(3)]
    for request in good:
        assert pipeline.fetch(request).shape == (60, 90, 3)
    worker.wait_for_line("a result was delivered")
    assert len(requests) == 6
    pipeline.close()


def test_pictures_that_fail_among_others_that_do_not_are_given_up_one_by_one(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(STUB_CONSTANTS=IMPATIENT, MAX_ATTEMPTS=2)
    for seed in range(3):
        send(pipeline, seed=seed, image_id="explode.jpg")
        wait_until(lambda: len(dead_entries(client)) > seed, "it is given up")  # noqa: B023
        assert pipeline.fetch(send(pipeline, seed=seed)).shape == (60, 90, 3)
    assert "the device seems to be at fault" not in worker.output
    pipeline.close()


# -- an end before the jobs are done --------------------------------------------------------------


def stop_at_grace(worker: Worker) -> int:
    return worker.stop()


def stop_twice(worker: Worker) -> int:
    worker.send_signal(signal.SIGTERM)
    worker.wait_for_line("no more claims")
    return worker.stop()


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("stop", [stop_at_grace, stop_twice])
def test_any_number_of_hasty_stops_leaves_the_jobs_in_order_without_an_attempt(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
    stop: Callable[[Worker], int],
    delivery: str,
) -> None:
    hold = make_hold()
    requests = [send(pipeline, seed=seed) for seed in range(6)]
    for _ in range(3):
        worker = start_worker(
            STUB_HOLD=hold,
            DELIVERY=delivery,
            INPAINTING_BATCH_SIZE_LONG=2,
            SHUTDOWN_GRACE_S=0.1 if stop is stop_at_grace else 30,
        )
        wait_until(lambda: client.llen(LONG) == 2, "two batches are claimed")
        wait_until(lambda: worker.output.count("taken from") == 4, "both are read")  # noqa: B023
        assert stop(worker) != 0
        assert queued(client) == requests
        assert not client.exists(keys.ATTEMPTS, keys.DEAD)
        assert not list(client.scan_iter("inpainting:claims:*"))
    hold.unlink()
    start_worker(DELIVERY=delivery)
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)
    wait_until(lambda: not segments(), "the inputs are unlinked")


def test_only_what_was_computed_has_an_attempt_when_a_worker_is_killed(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    server: RedisServer,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    settings = {"STUB_HOLD": hold, "INPAINTING_BATCH_SIZE_LONG": 2, **SOON}
    requests = [send(pipeline, seed=seed) for seed in range(6)]
    worker = start_worker(**settings)
    wait_until(lambda: worker.output.count("taken from") == 4, "a batch is read ahead")
    wait_until(lambda: _marked(client) == 2, "it is known which are computed")
    worker.kill()
    _recover(server, client)
    assert attempts(client) == dict.fromkeys(requests[:2], 1)
    # Each of the two is tried alone now: nothing is read ahead of a job that may kill.
    worker = start_worker(**settings)
    worker.wait_for_line("taken from")
    worker.kill()
    _recover(server, client)
    assert attempts(client) == {requests[0]: 2, requests[1]: 1}
    hold.unlink()
    start_worker(**SOON)
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)


def test_a_job_that_waits_for_its_turn_alone_is_not_blamed_for_the_batch_before_it(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    server: RedisServer,
    make_hold: Callable[[], Path],
) -> None:
    first, tried = send(pipeline, seed=1), send(pipeline, seed=2)
    client.hset(keys.ATTEMPTS, keys.sha1(client.lindex(LONG, 1)), 1)
    worker = start_worker(STUB_HOLD=make_hold(), **SOON)
    wait_until(lambda: processing(client) == 2, "both are claimed")
    wait_until(lambda: _marked(client) == 1, "one of them is computed")
    worker.kill()
    _recover(server, client)
    assert queued(client) == [first, tried]
    assert attempts(client) == {first: 1, tried: 1}
    pipeline.close()


def test_a_result_that_waits_to_be_committed_is_not_blamed_for_the_end_of_its_worker(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    server: RedisServer,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    worker = start_worker(STUB_HOLD=hold, **SOON)
    request = send(pipeline)
    worker.wait_for_line("taken from")
    client.config_set("maxmemory", 1)
    try:
        hold.unlink()
        worker.wait_for_line("OutOfMemoryError")
        wait_until(lambda: len(segments()) == 3, "the result is written")
        wait_until(lambda: _marked(client) == 0, "it is not being worked on")
        worker.kill()
    finally:
        worker.kill()
        worker.wait()
        client.config_set("maxmemory", 0)
    _recover(server, client)
    assert queued(client) == [request]
    assert attempts(client) == {}
    start_worker(**SOON)
    assert pipeline.fetch(request).shape == (60, 90, 3)


def test_jobs_that_wait_for_late_segments_have_no_attempt_for_a_killed_worker(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    late = [pipeline.message(*page(60, 90, seed), "long", canvas=CANVAS) for seed in range(5)]
    paths = [Path("/dev/shm", one["preprocessed_mask_shm_info"]["shm_name"]) for one in late]
    for path in paths:
        path.rename(f"{path}.hidden")
    settings = {"RETRY_DELAY_S": 1, "MAX_ATTEMPTS": 9, **SOON}
    worker = start_worker(**settings)
    assert pipeline.fetch(send(pipeline)).shape == (60, 90, 3)
    for message in late:
        pipeline.push(message, "long")
    wait_until(lambda: client.zcard(keys.delayed(LONG)) == 5, "all of them wait")
    counts = {name: int(count) for name, count in client.hgetall(keys.ATTEMPTS).items()}
    assert set(counts.values()) == {1}
    for _ in range(3):
        worker.kill()
        worker.wait()
        worker = start_worker(RETRY_DELAY_S=1, MAX_ATTEMPTS=9, REAP_INTERVAL_S=0.1)
    assert not dead_entries(client)
    for path in paths:
        os.rename(f"{path}.hidden", path)
    for message in late:
        assert pipeline.fetch(message["request_id"]).shape == (60, 90, 3)
    assert worker.output.count("recovered") == 0


def _marked(client: RedisClient) -> int:
    """How many claims are noted as worked on."""
    return sum(
        field.endswith(b":work")
        for key in client.scan_iter("inpainting:claims:*")
        for field in client.hkeys(key)
    )


def _recover(server: RedisServer, client: RedisClient) -> None:
    """Put back what the dead have left, as a worker would that takes no jobs."""
    wait_until(lambda: not list(client.scan_iter("inpainting:worker:*")), "no worker is alive")
    settings = Settings(_env_file=None, redis_url=server.url, shm_name_prefix=f"img_shm_{OWN}")

    async def one_pass() -> None:
        recovery = Recovery(settings, current_identity(settings.queues), Link(settings.redis_url))
        await recovery.recover()
        await recovery.close()

    asyncio.run(one_pass())
