"""A Redis server that is full: no job is lost, and it becomes free again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from core import keys
from core.broker.dead_job import write_entry
from core.identity import current_namespace
from core.keys import Kind
from harness import ROOT
from harness.jobs import CANVAS, dead_entries, processing, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline, page
from harness.workers import OWN, SOON, StartWorker, segments
from tests.core.support import leave_behind


@pytest.fixture
def full(client: RedisClient) -> Iterator[Callable[[], None]]:
    """Has the server take nothing that needs memory; at the end it does again."""

    def fill() -> None:
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("another", "x")

    yield fill
    client.config_set("maxmemory", 0)


def test_a_full_server_loses_no_heartbeat_and_becomes_free_again(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    server: RedisServer,
    full: Callable[[], None],
) -> None:
    soon = {**SOON, "RESULT_TTL_S": 1, "DEAD_TTL_S": 1}
    worker = start_worker(**soon)
    other = start_worker(**soon)
    unread = send(pipeline)
    wait_until(lambda: client.exists(keys.result(unread)), "there is a result")
    send(pipeline, padding_info="bad")
    wait_until(lambda: client.llen(keys.DEAD), "there is a dead job")
    wait_until(lambda: not processing(client), "nobody has anything in hand")
    lost = pipeline.message(*page(60, 90, 3), "long", canvas=CANVAS)
    gone = leave_behind(server, client, json.dumps(lost).encode())
    full()
    wait_until(lambda: not client.exists(keys.result(unread)), "the result has expired")
    wait_until(lambda: not client.exists(keys.DEAD), "the dead job has expired")
    wait_until(lambda: not client.exists(keys.processing(gone, Kind.LONG)), "it is recovered")
    assert client.llen(LONG) == 1
    wait_until(lambda: len(segments()) <= 2, "result and inputs are unlinked")
    assert len(list(client.scan_iter("inpainting:worker:*"))) == 2
    client.config_set("maxmemory", 0)
    assert pipeline.fetch(lost["request_id"]).shape == (60, 90, 3)
    for one in (worker, other):
        assert "the heartbeat was gone" not in one.output
        assert one.stop() == 0


def test_a_full_server_lets_dead_jobs_be_tried_again_and_discarded(
    pipeline: Pipeline, client: RedisClient, server: RedisServer, full: Callable[[], None]
) -> None:
    about = {"queue": LONG, "namespace": current_namespace()}
    for number in range(10):
        message = pipeline.message(
            *page(60, 90, number), "long", canvas=CANVAS, request_id=f"r{number}"
        )
        client.rpush(keys.DEAD, write_entry(json.dumps(message).encode(), reason="r", **about))
    full()
    environment = {**os.environ, "REDIS_URL": server.url, "SHM_NAME_PREFIX": f"img_shm_{OWN}"}
    for words in (["dead", "retry", "r3"], ["dead", "discard", "--all"]):
        done = subprocess.run(
            [sys.executable, str(ROOT / "worker.py"), *words],
            env=environment,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done
    assert not client.exists(keys.DEAD)
    assert [json.loads(one)["request_id"] for one in client.lrange(LONG, 0, -1)] == ["r3"]
    assert len(segments()) == 2
    pipeline.close()
    client.delete(LONG)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_a_full_server_loses_no_trace_of_a_message_that_is_too_long(
    start_worker: StartWorker, client: RedisClient, full: Callable[[], None], delivery: str
) -> None:
    worker = start_worker(DELIVERY=delivery, MAX_MESSAGE_BYTES=1024)
    wait_until(lambda: client.info("clients")["blocked_clients"], "the worker is idle")
    with client.pipeline() as together:  # it arrives as the last that there is room for
        together.rpush(LONG, b"x" * 2000)
        together.config_set("maxmemory", 1)
        together.execute()
    worker.wait_for_line("OutOfMemoryError")
    full()
    client.config_set("maxmemory", 0)
    wait_until(lambda: client.llen(keys.DEAD) == 1, "it is refused")
    assert dead_entries(client)[0]["length"] == 2000
    assert worker.stop() == 0


@pytest.mark.parametrize("times", [1, 2], ids=["one signal", "two signals"])
def test_a_worker_that_is_stopped_on_a_full_server_gives_its_jobs_back(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
    full: Callable[[], None],
    times: int,
) -> None:
    worker = start_worker(STUB_HOLD=make_hold(), INPAINTING_BATCH_SIZE_LONG=1, SHUTDOWN_GRACE_S=0.3)
    requests = [send(pipeline, seed=seed) for seed in range(3)]
    wait_until(lambda: worker.output.count("taken from") == 2, "one is read ahead")
    full()
    worker.send_signal(signal.SIGTERM)
    if times == 2:
        worker.wait_for_line("no more claims")
        worker.send_signal(signal.SIGTERM)
    assert worker.wait() != 0
    assert [json.loads(one)["request_id"] for one in client.lrange(LONG, 0, -1)] == requests
    assert not client.exists(keys.ATTEMPTS)
    client.config_set("maxmemory", 0)
    start_worker()
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)
