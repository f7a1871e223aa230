"""`health`: a worker is asked over its admin port, or known by its heartbeat."""

from __future__ import annotations

import contextlib
import json
import signal
import socket

import pytest

from harness.admin import PORT, Admin, default_ports
from harness.redis_server import RedisClient, RedisServer
from harness.workers import StartWorker
from tests.core.support import Run, command, printed


def test_health_asks_the_workers_of_this_host(
    run: Run, start_worker: StartWorker, client: RedisClient
) -> None:
    nobody = run("health", ADMIN_PORT=PORT + 40)
    assert nobody.returncode == 1
    assert f"no worker of this host answers on port {PORT + 40}:" in nobody.stderr
    with default_ports():
        ports = [Admin(start_worker(ADMIN_PORT="")).port for _ in range(2)]
    answers = printed(run("health", "--json"))
    assert set(ports) <= {answer["port"] for answer in answers}
    assert run("health", "--ready", "--port", ports[0]).returncode == 0
    one = printed(run("health", "--port", ports[1], "--json"))
    assert one == [{"port": ports[1], "healthy": True, "says": "ok"}]


def test_health_finds_a_worker_many_ports_after_its_own(
    run: Run, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.commands.health.TIMEOUT_S", 1.0)
    with contextlib.ExitStack() as others:  # and all of them mute
        first = others.enter_context(default_ports())
        for port in range(first, first + 25):
            with contextlib.suppress(OSError):
                others.enter_context(socket.create_server(("127.0.0.1", port)))
        port = Admin(start_worker(ADMIN_PORT="")).port
        assert port >= first + 25
        answers = printed(run("health", "--json"))
    assert {"port": port, "healthy": True, "says": "ok"} in answers


def test_health_without_an_admin_port_goes_by_the_heartbeat(
    run: Run, start_worker: StartWorker, client: RedisClient
) -> None:
    nobody = run("health", ADMIN_PORT=0)
    assert nobody.returncode == 1
    assert "no worker of this host has a heartbeat" in nobody.stderr
    worker = start_worker(ADMIN_PORT=0)
    assert "has a heartbeat in Redis" in run("health", ADMIN_PORT=0).stdout
    worker.stop(signal.SIGKILL)  # its heartbeat stays for a while
    assert run("health", ADMIN_PORT=0).returncode == 1


def test_health_without_an_admin_port_knows_workers_of_other_containers(
    run: Run, start_worker: StartWorker, client: RedisClient
) -> None:
    start_worker(ADMIN_PORT=0).stop(signal.SIGKILL)
    (key,) = client.keys("inpainting:worker:*")
    beat = json.loads(client.get(key))
    # In each container there is a process 1, and all may have one host name.
    for process in ("1:1", "", f"{beat['process'].partition(':')[0]}:"):
        client.set(key, json.dumps(beat | {"pid": 1, "process": process}))
        assert "no worker of this host has a heartbeat" in run("health", ADMIN_PORT=0).stderr


def test_without_redis_a_worker_without_an_admin_port_counts_as_alive_and_not_as_ready() -> None:
    away = {"REDIS_URL": "redis://127.0.0.1:9", "ADMIN_PORT": 0}
    (answer,) = printed(command("health", "--json", **away))
    assert answer["healthy"]
    assert "counts as alive: redis at redis://127.0.0.1:9 cannot be used" in answer["says"]
    ready = command("health", "--ready", **away)
    assert ready.returncode == 1
    assert ready.stderr.startswith("worker.py: redis at redis://127.0.0.1:9 cannot be used")
    assert "counts as alive" in " ".join(command("health", "--help").stdout.split())


def test_health_fails_if_one_worker_is_not_well(run: Run, start_worker: StartWorker) -> None:
    with RedisServer() as own:
        admin = Admin(start_worker(ADMIN_PORT=PORT + 60, REDIS_URL=own.url))
        admin.wait_for("/readyz", 200)
        own.stop()
        admin.wait_for("/readyz", 503)
        done = run("health", "--ready", ADMIN_PORT=PORT + 60)
        assert done.returncode == 1
        assert "Redis does not answer" in done.stderr
        assert run("health", ADMIN_PORT=PORT + 60).returncode == 0  # alive it is
