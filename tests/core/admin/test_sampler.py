"""What the admin port knows of Redis: at once, and of the server that the worker is on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest
import redis

from chaos.proxy import Proxy
from core.admin import sampler as sampler_module
from core.admin.health import Health
from core.admin.sampler import Sampler
from core.admin.server import REDIS_TIMEOUT_S
from core.broker.connection import sync_client
from core.config import Settings
from core.telemetry import Watch
from harness.admin import PORT, Admin
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import StartWorker

SECRET = "correct horse"


def test_readyz_does_not_wait_for_a_redis_that_hangs(start_worker: StartWorker) -> None:
    with RedisServer() as own, redis.Redis.from_url(own.url) as client:
        pid = client.info("server")["process_id"]
        admin = Admin(start_worker(ADMIN_PORT=PORT, REDIS_URL=own.url))
        admin.wait_for("/readyz", 200)
        os.kill(pid, signal.SIGSTOP)
        try:
            status = 200
            while status == 200:
                began = time.monotonic()
                reply = admin.ask("/readyz")
                assert time.monotonic() - began < REDIS_TIMEOUT_S
                status = reply.status
            assert "Redis does not answer" in reply.text
        finally:
            os.kill(pid, signal.SIGCONT)
        admin.wait_for("/readyz", 200)


def test_a_worker_is_not_ready_on_an_answer_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    watch.serving("w", lambda: 0)
    settings = Settings()
    connect = partial(sync_client, settings.redis_url)
    # Its thread does not run.
    asked = Sampler(connect, settings.queues, settings.result_queue, watch)
    health = Health(watch, asked)
    assert health.unreadiness() == ""  # the worker itself has just registered
    monkeypatch.setattr(sampler_module, "STALE_S", -1.0)
    assert "Redis has not answered for " in health.unreadiness()


@pytest.fixture
def switch() -> Iterator[tuple[Proxy, RedisServer, RedisServer]]:
    """An address, the server behind it, and the one that takes over."""
    with RedisServer() as old, RedisServer() as new, Proxy(old.port) as address:
        yield address, old, new


def test_the_admin_port_follows_its_worker_to_another_server_behind_one_address(
    start_worker: StartWorker, switch: tuple[Proxy, RedisServer, RedisServer]
) -> None:
    address, old, new = switch
    url = f"redis://127.0.0.1:{address.port}"
    admin = Admin(start_worker(ADMIN_PORT=PORT, REDIS_URL=url, ADMIN_TOKEN=SECRET))
    wait_until(lambda: admin.status["overview"], "Redis is asked")
    with redis.Redis.from_url(old.url) as was, redis.Redis.from_url(new.url) as master:
        dead = {"raw": "x", "queue": "lama_inference:longtasks", "error": "of the new one"}
        master.rpush("inpainting:dead", json.dumps(dead))
        address.target = new.port
        was.replicaof("127.0.0.1", new.port)
        # The worker's own connections end; those of the admin port, which only read, stay.
        for one in was.client_list():
            if one["cmd"] not in ("llen", "lrange"):
                was.client_kill_filter(_id=one["id"])
        wait_until(lambda: admin.status["worker"]["reconnections"], "the worker has moved")
        was.replicaof("no", "one")
        was.flushall()
        wait_until(lambda: admin.metrics().get(("inpainting_dead_jobs",)) == 1, "so has /metrics")
        wait_until(lambda: admin.status["dead"], "so has the page")
        (entry,) = admin.status["dead"]
        assert entry["error"] == "of the new one"
        key = {"Authorization": f"Bearer {SECRET}"}
        assert admin.ask("/api/dead/retry", {"ids": [entry["id"]]}, **key).json["retried"] == 1
        assert master.llen("inpainting:dead") == 0
