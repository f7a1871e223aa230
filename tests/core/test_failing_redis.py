"""Redis fails, refuses or is another one: a worker goes on, or ends with a line that says why."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.proxy import Proxy
from chaos.servers import Servers
from core import keys
from core.broker.scripts import LUA
from core.identity import current_namespace
from harness.admin import PORT, Admin
from harness.jobs import dead_entries, processing, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline
from harness.workers import SOON, OwnPipeline, StartWorker, segments, worker_id


def test_a_connection_lost_just_after_the_registration_does_not_end_the_worker(
    start_worker: StartWorker, pipeline: Pipeline, tmp_path: Path
) -> None:
    program = tmp_path / "unlucky.py"
    program.write_text(
        "from core.broker.queues import Queues\n"
        "from redis.exceptions import ConnectionError\n"
        "from harness.launch import launch\n"
        "lucky = Queues.is_device_held\n"
        "async def unlucky(self):\n"
        "    Queues.is_device_held = lucky\n"
        "    raise ConnectionError('lost')\n"
        "Queues.is_device_held = unlucky\n"
        "launch()\n"
    )
    worker = start_worker(program)
    assert pipeline.fetch(send(pipeline)).shape == (60, 90, 3)
    assert worker.stop() == 0


def test_an_outage_in_which_several_loops_fail_is_a_line_or_two(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    with RedisServer(append_only=True) as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        worker = start_worker(
            REDIS_URL=server.url,
            STUB_HOLD=hold,
            INPAINTING_BATCH_SIZE_LONG=1,
            LOG_LEVEL="INFO",
            **SOON,
        )
        requests = [send(pipeline, seed=seed) for seed in range(3)]
        wait_until(lambda: processing(pipeline.redis) == 2, "a job is read ahead")
        server.stop()
        worker.wait_for_line("cannot be used")
        hold.unlink()  # results are committed, others claimed, and recovery and waiting go on
        time.sleep(2)
        server.start()
        for request in requests:
            assert pipeline.fetch(request).shape == (60, 90, 3)
        worker.wait_for_line("redis is back after")
        assert worker.output.count("cannot be used") <= 2, worker.output
        assert worker.output.count("redis is back") == 1
        assert worker.stop() == 0


@pytest.mark.parametrize(
    "name", [keys.ATTEMPTS, keys.DEAD, keys.SUBMISSIONS, keys.CREWS, "segments", "workers"]
)
def test_a_key_of_another_type_ends_the_worker_with_one_line_that_says_so(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    name: str,
) -> None:
    namespace = current_namespace()
    key = {"segments": keys.segments(namespace), "workers": keys.workers(namespace)}.get(name, name)
    client.set(key, "of another program")
    request = send(pipeline)
    worker = start_worker(ready=False, LOG_LEVEL="INFO", **SOON)
    assert worker.wait() == 1
    critical = [line for line in worker.output.splitlines() if "CRITICAL" in line]
    assert len(critical) == 1
    assert "WRONGTYPE" in critical[0] or f"the key {key} in redis is a string" in critical[0]
    assert "Traceback" not in worker.output
    assert client.get(key) == b"of another program"
    client.delete(key)
    start_worker(**SOON)
    assert pipeline.fetch(request).shape == (60, 90, 3)
    wait_until(lambda: not segments(), "nothing is left of the first attempt")
    assert not client.exists(keys.ATTEMPTS, keys.DEAD)


@pytest.mark.parametrize("name", [keys.ATTEMPTS, keys.DEAD, keys.CREWS])
def test_a_key_that_becomes_one_of_another_type_ends_the_worker_too_and_costs_no_job(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, name: str
) -> None:
    worker = start_worker(LOG_LEVEL="INFO", **SOON)
    pipeline.fetch(send(pipeline))
    client.delete(name)
    client.set(name, "of another program")
    payload = pipeline.push(b"bad", "long")
    assert worker.wait() == 1
    critical = [line for line in worker.output.splitlines() if "CRITICAL" in line]
    assert len(critical) == 1
    assert "WRONGTYPE" in critical[0]
    assert "Traceback" not in worker.output
    assert "is not a list" not in worker.output
    client.delete(name)
    start_worker(**SOON)
    wait_until(
        lambda: [entry["raw"] for entry in dead_entries(client)] == [payload.decode()], "it fails"
    )


@pytest.mark.parametrize(
    "missing", ["-evalsha", "-set", "-blmove", "-hset", "-zadd", "-lmove", "-rpush", "-@scripting"]
)
def test_a_missing_right_ends_the_worker_with_one_line_that_names_it(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    server: RedisServer,
    missing: str,
) -> None:
    client.execute_command("ACL", "SETUSER", "narrow", "reset", "on", ">x", "~*", "+@all", missing)
    try:
        worker = start_worker(
            ready=False,
            REDIS_URL=f"redis://narrow:x@127.0.0.1:{server.port}",
            LOG_LEVEL="INFO",
            **SOON,
        )
        request = send(pipeline)
        if missing == "-rpush":
            send(pipeline, padding_info="bad")
        assert worker.wait() == 1
        critical = [line for line in worker.output.splitlines() if "CRITICAL" in line]
        assert len(critical) == 1
        assert "perm" in critical[0].lower() or "ACL" in critical[0]
        assert ":x@" not in worker.output
        assert "Traceback" not in worker.output
        if missing not in ("-blmove", "-rpush"):  # with these it has begun to work
            assert client.keys("inp*") == []
    finally:
        client.execute_command("ACL", "DELUSER", "narrow")
    start_worker(**SOON)
    assert pipeline.fetch(request).shape == (60, 90, 3)
    wait_until(lambda: not processing(client) and not client.exists(LONG), "all is done")
    wait_until(lambda: len(segments()) == 2 * client.llen(keys.DEAD), "no other input is left")
    assert not client.exists(keys.ATTEMPTS)
    pipeline.close()


@pytest.mark.parametrize("part", ["claims", "cleanup", "processing"])
def test_a_dead_worker_whose_keys_are_of_another_type_ends_no_other_worker(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, part: str
) -> None:
    worker = start_worker(**SOON)
    identity = worker_id(client, worker)
    namespace = current_namespace()
    dead = f"{identity[:-8]}00000000"
    key = {
        "claims": keys.claims(dead),
        "cleanup": keys.cleanup(dead),
        "processing": keys.processing(dead, keys.Kind.LONG),
    }[part]
    client.set(key, "of another program")
    client.sadd(keys.workers(namespace), dead, b"\xff garbage")
    garbage = {"garbage": 1, b"\xff \xff": 0, b"x-": -2e9}
    client.zadd(keys.segments(namespace), garbage)
    worker.wait_for_line(f"the jobs of the dead worker {dead} cannot be recovered: WRONGTYPE")
    wait_until(lambda: client.zcard(keys.segments(namespace)) == 1, "what is no record is removed")
    assert pipeline.fetch(send(pipeline)).shape == (60, 90, 3)
    assert "recovery failed" not in worker.output
    assert worker.stop() == 0
    assert client.get(key) == b"of another program"


def test_whatever_a_script_does_is_among_the_rights_that_are_looked_at() -> None:
    def commands(path: Path) -> set[str]:
        return set(re.findall(r"(?:redis\.call|try)\('([A-Z]+)'", path.read_text()))

    scripts = {path for path in LUA.rglob("*.lua") if path.stem != "rights"}
    used = set().union(*map(commands, scripts))
    assert commands(LUA / "rights.lua") == used


def test_a_queue_that_is_no_list_does_not_hold_up_the_other_with_at_most_once(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    client.hset(LONG, "no", "list")
    start_worker(DELIVERY="at_most_once")
    for seed in range(6):
        assert pipeline.fetch(send(pipeline, "short", seed)).shape == (60, 90, 3)
    client.delete(LONG)
    assert pipeline.fetch(send(pipeline, "long")).shape == (60, 90, 3)


def test_a_worker_goes_on_with_the_new_master_behind_the_same_address(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    with (
        Servers(with_replica=True) as servers,
        Proxy(servers.master.port) as proxy,
        OwnPipeline(servers.master.url) as before,
    ):
        proxy.lead_to(servers.master.port)
        hold = make_hold()
        worker = start_worker(
            REDIS_URL=f"redis://127.0.0.1:{proxy.port}",
            STUB_HOLD=hold,
            INPAINTING_BATCH_SIZE_LONG=1,
            RETRY_DELAY_S=1,
            **SOON,
        )
        requests = [send(before, seed=seed) for seed in range(3)]
        wait_until(lambda: worker.output.count("taken from") == 2, "one is read ahead")
        assert servers.switch()
        hold.unlink()
        worker.wait_for_line("READONLY")  # its connections lead to the old one still
        proxy.lead_to(servers.master.port)
        with OwnPipeline(servers.master.url) as after:
            for request in requests:
                assert after.fetch(request).shape == (60, 90, 3)
            for kind in ("long", "short"):
                assert after.fetch(send(after, kind)).shape == (60, 90, 3)
            worker.wait_for_line("redis is back after")
            assert not after.redis.exists(keys.ATTEMPTS, keys.DEAD)
            assert worker.stop() == 0


@pytest.mark.parametrize(
    ("forbid", "allow", "why"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "READONLY"),
        (("CONFIG SET", "maxmemory", "1"), ("CONFIG SET", "maxmemory", "0"), "maxmemory"),
        (
            ("CONFIG SET", "min-replicas-to-write", "1"),
            ("CONFIG SET", "min-replicas-to-write", "0"),
            "NOREPLICAS",
        ),
    ],
)
def test_a_worker_whose_writes_fail_is_not_ready_and_says_why(
    start_worker: StartWorker,
    shm_baseline: None,
    forbid: tuple[str, ...],
    allow: tuple[str, ...],
    why: str,
) -> None:
    with RedisServer() as server, OwnPipeline(server.url) as pipeline:
        soon = (
            "core.broker.connection.UNREADY_AFTER_S=0.3 core.broker.heartbeat.UNREADY_AFTER_S=0.3"
        )
        worker = start_worker(REDIS_URL=server.url, STUB_CONSTANTS=soon, ADMIN_PORT=PORT, **SOON)
        admin = Admin(worker)
        admin.wait_for("/readyz", 200)
        pipeline.redis.execute_command(*forbid)
        reply = admin.wait_for("/readyz", 503)
        assert why in reply.text
        assert admin.ask("/livez").status == 200
        pipeline.redis.execute_command(*allow)
        admin.wait_for("/readyz", 200)
        assert pipeline.fetch(send(pipeline)).shape == (60, 90, 3)
        assert worker.stop() == 0
