"""Servers that lack commands: the worker goes on, or the doctor says which one it needs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from core.broker.scripts import LUA
from core.commands.checks.redis_commands import BY_DELIVERY, COMMANDS, OPTIONAL
from core.config import Delivery
from harness import ROOT
from harness.redis_server import RedisServer
from harness.wire import page
from harness.workers import OwnPipeline, StartWorker
from tests.core.support import command


def findings(url: str, **environment: object) -> tuple[int, list[dict[str, str]]]:
    """The exit status of the doctor's look at Redis, and what it found."""
    done = command("doctor", "redis", "--json", USE_CUDA=0, REDIS_URL=url, **environment)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def about(found: list[dict[str, str]], text: str) -> dict[str, str]:
    """The one finding that is not OK and has this text."""
    (one,) = [one for one in found if one["level"] != "ok" and text in one["message"]]
    return one


@pytest.fixture
def without_client() -> Iterator[RedisServer]:
    """A server without CLIENT, as some managed services are."""
    with RedisServer(options={"rename-command": "CLIENT gone"}) as running:
        yield running


@pytest.mark.parametrize("delivery", Delivery)
def test_a_server_without_client_is_worked_with(
    without_client: RedisServer, start_worker: StartWorker, shm_baseline: None, delivery: Delivery
) -> None:
    worker = start_worker(REDIS_URL=without_client.url, DELIVERY=delivery)
    worker.wait_for_line("claims are slower when idle, since redis refuses CLIENT ID or CLIENT")
    with OwnPipeline(without_client.url) as pipeline:
        for kind in ("long", "short", "long"):
            time.sleep(0.3)  # it waits for both queues again
            began = time.monotonic()
            request = pipeline.submit(*page(60, 90, 1), kind, canvas=(64, 96))
            assert pipeline.fetch(request).shape == (60, 90, 3)
            assert time.monotonic() - began < 1.5, "less than a wait that nobody ends"
    assert worker.stop() == 0
    assert "cannot be used" not in worker.output


def test_the_doctor_warns_of_a_server_without_client(without_client: RedisServer) -> None:
    status, found = findings(without_client.url)
    assert status == 0
    finding = about(found, "CLIENT UNBLOCK")
    assert finding["level"] == "warning"
    assert "0.1 s" in finding["remedy"]


@pytest.mark.parametrize(
    "name", ["BLMOVE", "EVALSHA", "SCRIPT", "MULTI", "INFO", "LPOS", "HSCAN", "TIME", "SMEMBERS"]
)
def test_a_command_that_the_worker_needs_is_a_problem_of_that_name(
    name: str, start_worker: StartWorker
) -> None:
    with RedisServer(options={"rename-command": f"{name} gone"}) as server:
        status, found = findings(server.url)
        assert status == 1
        finding = about(found, name)
        assert finding["level"] == "problem"
        assert "needs" in finding["message"]
        assert "rename-command" in finding["remedy"]
        with redis.Redis(port=server.port, protocol=2) as client:
            assert client.dbsize() == 0, "the doctor leaves nothing behind"


def test_a_worker_without_a_command_that_it_needs_ends_with_its_name(
    start_worker: StartWorker,
) -> None:
    for name, end in (("BLMOVE", ""), ("SELECT", "/1"), ("CLIENT", "?client_name=me")):
        with RedisServer(options={"rename-command": f"{name} gone"}) as server:
            worker = start_worker(REDIS_URL=f"{server.url}{end}", ready=False)
            worker.wait_for_line(f"refuses what the worker needs: unknown command '{name}'")
            assert worker.wait() == 1


def test_blpop_is_needed_for_the_other_delivery_only() -> None:
    with RedisServer(options={"rename-command": "BLPOP gone"}) as server:
        assert findings(server.url)[0] == 0
        status, found = findings(server.url, DELIVERY="at_most_once")
        assert status == 1
        assert about(found, "BLPOP")["level"] == "problem"
    with RedisServer(options={"rename-command": "BLMOVE gone"}) as server:
        assert findings(server.url, DELIVERY="at_most_once")[0] == 0


def test_a_right_that_the_worker_needs_is_a_problem_of_its_commands_name(
    server: RedisServer, client: Any
) -> None:
    client.execute_command("ACL", "SETUSER", "narrow", "on", ">x", "~*", "+@all", "-lpos", "-scan")
    try:
        status, found = findings(server.url.replace("//", "//narrow:x@"))
    finally:
        client.execute_command("ACL", "DELUSER", "narrow")
    assert status == 1
    assert about(found, "LPOS")["level"] == "problem"
    assert "SCAN" in about(found, "LPOS")["message"]
    assert "ACL" in about(found, "LPOS")["remedy"]


def test_the_documented_rights_are_enough_for_the_doctor(server: RedisServer, client: Any) -> None:
    page_ = (ROOT / "docs/redis-and-security.md").read_text()
    rule = re.search(r"ACL SETUSER inpainting (.*?)\n\n", page_, re.DOTALL)
    assert rule
    client.execute_command("ACL", "SETUSER", "inpainting", *rule[1].replace("\\", "").split())
    try:
        status, found = findings(server.url.replace("//", "//inpainting:password@"))
    finally:
        client.execute_command("ACL", "DELUSER", "inpainting")
    assert status == 0, found
    assert any(one["message"] == "has every command that the worker needs" for one in found)


def tried(*deliveries: Delivery) -> set[str]:
    """The names of the commands that the doctor tries."""
    lines = [line for delivery in deliveries for line in BY_DELIVERY[delivery]]
    return {line.split()[0] for line in (*COMMANDS.strip().splitlines(), *lines, *OPTIONAL)}


def test_the_doctor_tries_each_command_of_the_scripts() -> None:
    scripts = "".join(path.read_text() for path in LUA.rglob("*.lua"))
    called = set(re.findall(r"(?:redis\.p?call|try)\('([A-Z]+)'", scripts))
    assert len(called) > 30
    assert called <= tried(*Delivery)


@pytest.mark.parametrize("delivery", Delivery)
def test_the_doctor_tries_each_command_of_a_worker(
    start_worker: StartWorker, shm_baseline: None, delivery: Delivery
) -> None:
    with RedisServer() as server, redis.Redis(port=server.port, protocol=2) as client:
        short = {"REAP_INTERVAL_S": 0.1, "HEARTBEAT_INTERVAL_S": 0.2, "HEARTBEAT_TTL_S": 0.5}
        workers = [
            start_worker(REDIS_URL=server.url, DELIVERY=delivery, RESULT_TTL_S=1, **short)
            for _ in range(2)
        ]
        client.rpush("lama_inference:longtasks", "nonsense")
        with OwnPipeline(server.url) as pipeline:
            request = pipeline.submit(*page(60, 90, 1), "long", canvas=(64, 96))
            assert pipeline.fetch(request).shape == (60, 90, 3)
        workers.pop().kill()
        time.sleep(1.5)  # its heartbeat ends, and what it left is looked for
        assert workers.pop().stop() == 0
        statistics = client.info("commandstats")
        used = {name.removeprefix("cmdstat_").partition("|")[0].upper() for name in statistics}
    assert {"EVALSHA", "SCAN", "SMEMBERS", "MULTI"} <= used
    # INFO is what the doctor begins with; CONFIG is the test's.
    assert used - {"CONFIG", "INFO"} <= tried(delivery)
