"""A worker on Valkey. The scripts are tested on it as well: see the fixture `settings`."""

from __future__ import annotations

import json

import redis

from harness.redis_server import RedisServer
from harness.wire import page
from harness.workers import OwnPipeline, StartWorker
from tests.core.support import command


def test_jobs_are_done_on_valkey(
    valkey_server: RedisServer, start_worker: StartWorker, shm_baseline: None
) -> None:
    for delivery in ("at_least_once", "at_most_once"):
        worker = start_worker(REDIS_URL=valkey_server.url, DELIVERY=delivery)
        with OwnPipeline(valkey_server.url) as pipeline:
            for kind in ("long", "short"):
                request = pipeline.submit(*page(60, 90, 1), kind, canvas=(64, 96))
                assert pipeline.fetch(request).shape == (60, 90, 3)
        assert worker.stop() == 0
        assert "cannot be used" not in worker.output
        assert "slower when idle" not in worker.output


def test_the_doctor_names_valkey_and_finds_all_that_is_needed(valkey_server: RedisServer) -> None:
    done = command("doctor", "redis", "--json", REDIS_URL=valkey_server.url, USE_CUDA=0)
    assert done.returncode == 0, done.stdout
    messages = [finding["message"] for finding in json.loads(done.stdout)]
    with redis.Redis(port=valkey_server.port, protocol=2) as client:
        info = client.info()
    name = f"Valkey {info['valkey_version']} (as Redis {info['redis_version']})"
    assert f"{name} answers at {valkey_server.url}" in messages
    assert "has every command that the worker needs" in messages
