"""A worker that sees none of the segments costs no job an attempt, and says why it is not ready."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

import pytest

from core import keys
from harness.admin import PORT, Admin
from harness.jobs import dead_entries, make_message, send
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import Pipeline
from harness.workers import SOON, StartWorker, Worker, segments, worker_id
from tests.core.private import Private, needs_mounts


@needs_mounts
@pytest.mark.parametrize("is_first", [False, True], ids=["later", "first"])
def test_a_worker_with_another_shared_memory_costs_no_job_an_attempt(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, is_first: bool
) -> None:
    good = None if is_first else start_worker(**SOON)
    blind = Private(start_worker, ADMIN_PORT=PORT).worker
    good = good or start_worker(**SOON)
    wait_until(lambda: client.hlen(keys.CREWS) >= 4, "both have noted their crews")
    if is_first:
        _wait_for_passes(client, blind)
    requests = [send(pipeline, ("long", "short")[seed % 2], seed) for seed in range(100)]
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)
    assert not client.exists(keys.DEAD, keys.ATTEMPTS)
    assert "is tried again" not in blind.output
    if "is given back" in blind.output:
        reply = Admin(blind).wait_for("/readyz", 503)
        assert "ipc: host" in reply.text
    wait_until(lambda: not segments(), "the inputs are unlinked")
    assert good.stop() == 0


def _wait_for_passes(client: RedisClient, worker: Worker) -> None:
    """Return once a worker has looked around after now, twice."""
    for _ in range(2):
        identity = worker_id(client, worker)
        namespace = json.loads(client.get(keys.heartbeat(identity)))["namespace"]
        client.delete(keys.reaper(namespace))
        wait_until(lambda: client.exists(keys.reaper(namespace)), "a pass begins")  # noqa: B023
    time.sleep(0.2)


@needs_mounts
def test_a_worker_beside_another_shared_memory_is_not_ready_after_its_first_miss_and_says_why(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, make_hold: Any
) -> None:
    hold = make_hold()
    good = start_worker(STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1, **SOON)
    requests = [send(pipeline, seed=seed) for seed in range(3)]
    wait_until(lambda: good.output.count("taken from") == 2, "the good one has its hands full")
    blind = Private(start_worker, ADMIN_PORT=PORT).worker
    blind.wait_for_line("no segment of 1 job in a row is in this /dev/shm")
    reply = Admin(blind).wait_for("/readyz", 503)
    assert "ipc: host" in reply.text
    assert "workers with another one take the same jobs" in reply.text
    hold.unlink()
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)
    assert not client.exists(keys.DEAD, keys.ATTEMPTS)
    assert blind.stop() == good.stop() == 0


@needs_mounts
def test_a_worker_that_a_rival_makes_blind_says_so(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    private = Private(start_worker, ADMIN_PORT=PORT, RETRY_DELAY_S=100, RETRY_DELAY_MAX_S=100)
    send(pipeline)
    private.worker.wait_for_line("is tried again in 100 s")
    admin = Admin(private.worker)
    assert admin.ask("/readyz").status == 200
    rival = start_worker(**SOON)
    admin.wait_for("/readyz", 503)
    assert "no segment of 1 job in a row" in private.worker.output
    assert rival.stop() == 0
    admin.wait_for("/readyz", 200)
    pipeline.close()


@needs_mounts
def test_a_worker_alone_gives_jobs_back_after_three_misses_until_it_finds_a_segment(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    private = Private(start_worker, ADMIN_PORT=PORT, MAX_ATTEMPTS=2, RETRY_DELAY_S=0.1)
    admin = Admin(private.worker)
    requests = [send(pipeline, seed=seed) for seed in range(8)]
    private.worker.wait_for_line("jobs in a row is in this /dev/shm")
    private.worker.wait_for_line("is given back")
    assert "ipc: host" in admin.wait_for("/readyz", 503).text
    assert admin.ask("/livez").status == 200
    assert not client.exists(keys.DEAD)
    assert private.worker.output.count("is tried again") <= 2 * 4  # before it was certain
    found = private.send(pipeline)
    result = pipeline.result(found)
    (private.folder / result["inpaint_shm_info"]["shm_name"]).unlink()
    private.worker.wait_for_line("a job's segment is here: jobs are taken as usual")
    admin.wait_for("/readyz", 200)
    # From now on what is missing is missing.
    for request in requests:
        assert pipeline.result(request)["status"] == "failed"
    assert {entry["reason"] for entry in dead_entries(client)} == {"segment_missing"}
    pipeline.close()


#: Starts a worker as root without the capabilities to read the files of others.
WITHOUT_CAPABILITY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")

needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root has capabilities"
)


def shut(message: Any, uid: int = 12345) -> None:
    """Give a message's segments to a user whose files only root can read."""
    for part in ("img", "mask"):
        name = message[f"preprocessed_{part}_shm_info"]["shm_name"]
        os.chown(f"/dev/shm/{name}", uid, -1)


@needs_setpriv
def test_a_segment_that_cannot_be_opened_is_read_by_a_later_try(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    worker = start_worker(behind=WITHOUT_CAPABILITY, SHM_ALLOWED_UIDS=12345, RETRY_DELAY_S=0.2)
    message = make_message(pipeline)
    shut(message)
    pipeline.push(message, "long")
    worker.wait_for_line("is tried again in 0.2 s (attempt 1 of 3): segment")
    assert "root without the capability CAP_DAC_OVERRIDE" in worker.output
    shut(message, os.geteuid())
    assert pipeline.fetch(message["request_id"]).shape == (60, 90, 3)


@needs_setpriv
def test_a_worker_that_can_open_no_segment_gives_its_jobs_back_and_says_why(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(behind=WITHOUT_CAPABILITY, SHM_ALLOWED_UIDS=12345, ADMIN_PORT=PORT)
    messages = [make_message(pipeline, seed=seed) for seed in range(8)]
    for message in messages:
        shut(message)
        pipeline.push(message, "long")
    worker.wait_for_line("jobs in a row can be opened: the worker gives jobs back")
    assert "CAP_DAC_OVERRIDE" in Admin(worker).wait_for("/readyz", 503).text
    assert not client.exists(keys.DEAD)
    for message in messages:
        shut(message, os.geteuid())
    for message in messages:
        assert pipeline.fetch(message["request_id"]).shape == (60, 90, 3)
    assert not client.exists(keys.DEAD)
    assert Admin(worker).wait_for("/readyz", 200)
