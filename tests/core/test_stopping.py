"""Signals, the grace time and hung inferences: a stop loses no job."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core import keys
from harness import ROOT
from harness.jobs import CANVAS, processing, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline, page
from harness.workers import StartWorker, worker_id
from tests.core.private import needs_mounts


def test_sigterm_mid_batch_delivers_it_and_puts_the_rest_back_in_order(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    requests = [send(pipeline, "long", seed) for seed in range(8)]
    worker = start_worker(STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=2)
    wait_until(lambda: processing(client) == 4, "a batch is computed and one is claimed ahead")
    worker.send_signal(signal.SIGTERM)
    worker.wait_for_line("no more claims")
    hold.unlink()
    assert worker.wait() == 0
    for request in requests[:2]:
        pipeline.fetch(request)
    queued = [json.loads(payload)["request_id"] for payload in client.lrange(LONG, 0, -1)]
    assert queued == requests[2:]
    assert sorted(client.scan_iter()) == sorted(
        [
            LONG.encode(),
            *client.scan_iter("inpainting:segments:*"),
            *client.scan_iter(keys.CREWS),
            keys.SUBMISSIONS.encode(),  # the order of what is back in the queue
        ]
    )
    client.delete(LONG)
    pipeline.close()


def the_only_child(parent: int) -> int:
    """The process id of a process' child, once it has one."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    wait_until(lambda: children.read_text().split(), "there is a child")
    return int(children.read_text().split()[0])


def handles(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text(), re.M)
    return bool(int(caught, 16) >> (number - 1) & 1)


@needs_mounts
def test_process_1_of_a_container_obeys_sigterm_during_its_imports(server: RedisServer) -> None:
    own_user = () if os.geteuid() == 0 else ("-r",)
    words = ["unshare", *own_user, "--pid", "--fork", "--kill-child", sys.executable, "worker.py"]
    environment = {**os.environ, "REDIS_URL": server.url, "ADMIN_PORT": "0"}
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as outer:
        child = the_only_child(outer.pid)
        wait_until(lambda: handles(child, signal.SIGTERM), "it has a handler")
        os.kill(child, signal.SIGTERM)
        assert outer.wait(timeout=10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_stops_at_once_and_leaves_no_key(
    start_worker: StartWorker, client: RedisClient, number: int
) -> None:
    worker = start_worker()
    began = time.monotonic()
    assert worker.stop(number) == 0
    assert time.monotonic() - began < 1.5  # a claim blocks for two seconds by itself
    assert client.keys() == []


def test_a_job_that_waits_for_another_try_does_so_in_redis_and_a_stop_costs_nothing(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(RETRY_DELAY_S=1000, RETRY_DELAY_MAX_S=1000)
    message = pipeline.message(*page(60, 90, 1), "long", canvas=CANVAS)
    message["preprocessed_mask_shm_info"]["shm_name"] = "mask_shm_missing"
    payload = pipeline.push(message, "long")
    worker.wait_for_line("is tried again in 1000 s")
    wait_until(lambda: client.exists(keys.delayed(LONG)), "it waits")
    assert processing(client) == 0
    assert worker.stop() == 0
    assert client.zrange(keys.delayed(LONG), 0, -1) == [payload]
    pipeline.close()


def test_a_stop_puts_back_what_was_claimed_without_a_reply(
    start_worker: StartWorker, client: RedisClient
) -> None:
    worker = start_worker(HEARTBEAT_INTERVAL_S=100, HEARTBEAT_TTL_S=200)
    wait_until(lambda: client.info("clients")["blocked_clients"] == 2, "the worker waits for jobs")
    client.rpush(f"inpainting:processing:{worker_id(client, worker)}:long", b"unheard")
    assert worker.stop() == 0
    assert client.lrange(LONG, 0, -1) == [b"unheard"]
    assert list(client.scan_iter()) == [LONG.encode()]


def test_an_idle_worker_stops_at_once_while_redis_is_away(start_worker: StartWorker) -> None:
    with RedisServer() as server:
        worker = start_worker(REDIS_URL=server.url)
        server.stop()
        worker.wait_for_line("cannot be used")
        assert worker.stop() == 0


def test_a_second_signal_stops_at_once_and_loses_nothing(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    worker = start_worker(STUB_HOLD=make_hold())
    send(pipeline, "long")
    worker.wait_for_line("taken from")
    worker.send_signal(signal.SIGTERM)
    worker.wait_for_line("no more claims")
    assert worker.stop() == 128 + signal.SIGTERM
    assert client.llen(LONG) == 1
    assert not client.exists(keys.ATTEMPTS)
    assert not list(client.scan_iter("inpainting:workers:*"))
    pipeline.close()


def test_a_batch_that_outlasts_the_grace_is_given_back_without_an_attempt(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    worker = start_worker(STUB_HOLD=make_hold(), SHUTDOWN_GRACE_S=0.2)
    send(pipeline, "long")
    worker.wait_for_line("taken from")
    assert worker.stop() == 1
    assert "SHUTDOWN_GRACE_S=0.2" in worker.output
    assert client.llen(LONG) == 1
    assert processing(client) == 0
    assert not client.exists(keys.ATTEMPTS)
    assert not list(client.scan_iter("inpainting:worker:*"))
    pipeline.close()


def test_a_hung_inference_ends_the_process_and_is_an_attempt(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    worker = start_worker(STUB_HOLD=make_hold(), INFERENCE_TIMEOUT_S=0.2)
    send(pipeline, "long")
    assert worker.wait() == 1
    assert "INFERENCE_TIMEOUT_S=0.2" in worker.output
    assert client.zcard(keys.delayed(LONG)) == 1
    assert client.hvals(keys.ATTEMPTS) == [b"1"]
    pipeline.close()


def test_a_network_that_makes_progress_is_not_hung(
    start_worker: StartWorker, pipeline: Pipeline, make_hold: Callable[[], Path]
) -> None:
    hold = make_hold()
    worker = start_worker(STUB_HOLD=hold, STUB_PROGRESS=1, INFERENCE_TIMEOUT_S=0.3)
    request = pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96))
    time.sleep(1.2)  # four times as long as a hung one has
    hold.unlink()
    assert pipeline.fetch(request).shape == (60, 90, 3)
    assert worker.stop() == 0


def test_a_worker_that_waits_for_redis_can_be_stopped(
    start_worker: StartWorker, client: RedisClient
) -> None:
    worker = start_worker(REDIS_URL="redis://127.0.0.1:1", ready=False)
    worker.wait_for_line("redis://127.0.0.1:1 cannot be used")
    assert worker.stop() == 0
