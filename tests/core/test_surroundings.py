"""What other programs, other messages and Redis itself do to a worker costs no good job."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from chaos.proxy import Proxy
from chaos.servers import Servers
from core import keys
from core.broker.at_most_once import open_queues
from core.broker.connection import LUA
from core.broker.dead_job import write_entry
from core.config import Delivery
from core.errors import JobError
from core.identity import current_identity
from core.keys import Kind
from harness import ROOT
from harness.admin import PORT, Admin
from harness.jobs import CANVAS, dead_entries, hide, processing, send
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Pipeline, page
from harness.workers import OWN, SOON, OwnPipeline, StartWorker, segments, worker_id
from tests.core.support import Memory, leave_behind, settings_for

MIB = 1 << 20


#: Bytes of a message that no worker must hold in memory, and by how much one may grow meanwhile.
HUGE = 20_000_000
MOST_GROWTH = 8 * MIB


def without_picture(pipeline: Pipeline, kind: str = "long", **options: Any) -> bytes:
    """A message whose picture is not there, pushed to a queue."""
    message = pipeline.message(*page(60, 90, 1), kind, canvas=CANVAS, **options)
    os.unlink(f"/dev/shm/{message['preprocessed_img_shm_info']['shm_name']}")
    return pipeline.push(message, kind)


# -- large messages -------------------------------------------------------------------------------


def huge_bytes() -> bytes:
    return b"\xff" * HUGE


def huge_object() -> bytes:
    return json.dumps({"request_id": "huge", "image_id": "x" * HUGE}).encode()


def assert_truncated(entry: dict[str, Any], payload: bytes, queue: str) -> None:
    """The entry says of a message what fits, and is small itself."""
    assert (entry["reason"], entry["queue"]) == ("too_long", queue)
    assert entry["truncated"] is True
    assert entry["length"] == len(payload)
    assert entry["sha1"] == hashlib.sha1(payload).hexdigest()
    assert entry["raw"].startswith(payload[:1000].decode("utf-8", "replace"))
    assert len(json.dumps(entry)) < 10_000


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("make", [huge_bytes, huge_object])
def test_a_message_of_any_length_is_refused_unread_and_holds_nobody_up(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
    delivery: str,
    make: Callable[[], bytes],
) -> None:
    payload = make()
    hold = make_hold()
    hold.unlink()
    worker = start_worker(DELIVERY=delivery, STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=2)
    for kind in ("long", "short") * 2:
        pipeline.fetch(send(pipeline, kind))
    waits = 2 if delivery == "at_least_once" else 1
    wait_until(lambda: client.info("clients")["blocked_clients"] == waits, "the worker is idle")
    memory = Memory(worker)
    pipeline.push(payload, "short")
    wait_until(lambda: client.llen(keys.DEAD) == 1, "the idle worker has refused it")
    hold.touch()
    requests = [send(pipeline, "long", seed) for seed in range(5)]
    pipeline.push(payload, "long")
    requests += [send(pipeline, kind, seed) for kind in ("long", "short") for seed in range(3)]
    worker.wait_for_line("taken from")
    hold.unlink()
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)
    wait_until(lambda: client.llen(keys.DEAD) == 2, "the busy worker has refused it")
    assert memory.growth < MOST_GROWTH
    for entry, queue in zip(dead_entries(client), (SHORT, LONG), strict=True):
        assert_truncated(entry, payload, queue)
    assert not client.exists(keys.ATTEMPTS)
    assert worker.stop() == 0


def test_a_message_of_any_length_that_a_dead_worker_had_is_refused_too(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis, server: RedisServer
) -> None:
    payload = huge_bytes()
    before, after = send(pipeline, seed=1), send(pipeline, seed=2)
    lost = [client.lpop(LONG), payload, client.lpop(LONG)]
    leave_behind(server, client, *lost)
    worker = start_worker(**SOON)
    memory = Memory(worker)
    for request in (before, after):
        assert pipeline.fetch(request).shape == (60, 90, 3)
    wait_until(lambda: client.llen(keys.DEAD), "it is refused")
    assert memory.growth < MOST_GROWTH
    assert_truncated(dead_entries(client)[0], payload, LONG)


def test_a_message_claimed_without_a_reply_is_refused_if_it_is_too_long(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    worker = start_worker(HEARTBEAT_INTERVAL_S=0.2, HEARTBEAT_TTL_S=1)
    payload = huge_bytes()
    client.rpush(keys.processing(worker_id(client, worker), Kind.LONG), payload)
    wait_until(lambda: client.llen(keys.DEAD), "it is refused")
    assert_truncated(dead_entries(client)[0], payload, LONG)
    assert pipeline.fetch(send(pipeline)).shape == (60, 90, 3)
    assert processing(client) == 0


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("waits", [True, False], ids=["to a worker that waits", "before its start"])
def test_the_longest_message_that_is_allowed_is_read(
    start_worker: StartWorker, client: redis.Redis, delivery: str, waits: bool
) -> None:
    def push() -> None:
        client.rpush(LONG, b"x" * 1024, b"x" * 1025)

    if not waits:
        push()
    start_worker(DELIVERY=delivery, MAX_MESSAGE_BYTES=1024)
    if waits:
        wait_until(lambda: client.info("clients")["blocked_clients"], "the worker is idle")
        push()
    wait_until(lambda: client.llen(keys.DEAD) == 2, "both are dead")
    reasons = {entry["length"]: entry["reason"] for entry in dead_entries(client)}
    assert reasons == {1024: "bad_json", 1025: "too_long"}


def test_inputs_of_a_long_message_whose_worker_died_at_cleaning_up_are_unlinked(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis, server: RedisServer
) -> None:
    """It was allowed where it was done, and is not here: the limit differs."""
    message = pipeline.message(*page(60, 90, 1), "long", canvas=CANVAS, text="x" * 5000)
    worker = leave_behind(server, client, b"another")
    client.rpush(keys.cleanup(worker), json.dumps(message))
    start_worker(MAX_MESSAGE_BYTES=1024, **SOON)
    wait_until(lambda: not client.exists(keys.cleanup(worker)), "it is cleaned up after")
    wait_until(lambda: not segments(), "the inputs are unlinked")
    wait_until(lambda: client.llen(keys.DEAD) == 1, "what it had in hand is done as well")


def test_many_long_refused_messages_make_no_worker_large_and_no_page_slow(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    worker = start_worker(ADMIN_PORT=PORT, **SOON)
    admin = Admin(worker)
    pipeline.fetch(send(pipeline))
    assert admin.ask("/api/status").status == 200
    memory = Memory(worker)
    for number in range(100):
        client.rpush(LONG, b'{"request_id": "r%d", "text": "%s"}' % (number, b"x" * 900_000))
    wait_until(lambda: client.llen(keys.DEAD) == 100, "all are refused")
    for _ in range(3):
        began = time.monotonic()
        reply = admin.ask("/api/status")
        assert time.monotonic() - began < 2
        assert reply.status == 200
        assert len(reply.body) < MIB
    assert memory.growth < 160 * MIB
    passes = client.info("commandstats")["cmdstat_time"]["calls"]
    wait_until(
        lambda: client.info("commandstats")["cmdstat_time"]["calls"] > passes + 4, "some passes"
    )
    pipeline.fetch(send(pipeline))
    assert memory.growth < 160 * MIB


# -- submissions of one request -------------------------------------------------------------------


@pytest.mark.parametrize("is_fetched", [False, True], ids=["unfetched", "fetched"])
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_an_older_submission_that_is_tried_again_late_does_not_replace_the_newer_result(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    is_fetched: bool,
    delivery: str,
) -> None:
    worker = start_worker(RETRY_DELAY_S=1.5, DELIVERY=delivery)
    older = pipeline.message(
        *page(60, 90, 1), "long", canvas=CANVAS, request_id="again", image_id="older.jpg"
    )
    put_back = hide(older)
    pipeline.push(older, "long")
    worker.wait_for_line("request again failed and is tried again")
    put_back()
    send(pipeline, seed=2, request_id="again", image_id="newer.jpg")
    if is_fetched:
        pipeline.fetch("again")
    worker.wait_for_line("request again is superseded")
    wait_until(
        lambda: not client.exists(keys.delayed(LONG), keys.SUBMISSIONS, keys.ATTEMPTS),
        "nothing is known of the older one any more",
    )
    if is_fetched:
        assert not client.exists("inpainting_result:again")
    else:
        assert client.hget("inpainting_result:again", "image_id") == b"newer.jpg"
        pipeline.fetch("again")
    wait_until(lambda: not segments(), "the inputs of both are unlinked")
    assert not client.exists(keys.DEAD)


def test_an_older_submission_on_a_slower_worker_does_not_replace_the_newer_result(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    slow = start_worker(STUB_HOLD=hold)
    send(pipeline, request_id="again", image_id="older.jpg")
    slow.wait_for_line("request again taken from")
    send(pipeline, "short", request_id="read-ahead")
    slow.wait_for_line("request read-ahead taken from")  # its hands are full
    start_worker()
    send(pipeline, seed=2, request_id="again", image_id="newer.jpg")
    wait_until(lambda: client.exists("inpainting_result:again"), "the newer one is done")
    hold.unlink()
    slow.wait_for_line("request again is superseded")
    assert client.hget("inpainting_result:again", "image_id") == b"newer.jpg"
    pipeline.fetch("read-ahead")
    pipeline.fetch("again")
    wait_until(lambda: not segments(), "no input and no result is left")
    assert not client.exists(keys.SUBMISSIONS, keys.DEAD)


def test_a_newer_submission_that_fails_leaves_the_older_ones_result(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    worker = start_worker(RETRY_DELAY_S=1)
    older = pipeline.message(*page(60, 90, 1), "long", canvas=CANVAS, request_id="again")
    put_back = hide(older)
    pipeline.push(older, "long")
    worker.wait_for_line("request again failed and is tried again")
    send(pipeline, seed=2, request_id="again", padding_info="bad")
    wait_until(lambda: client.llen(keys.DEAD), "the newer one is dead")
    put_back()
    wait_until(
        lambda: client.hexists("inpainting_result:again", "inpaint_shm_info"), "there is a result"
    )
    pipeline.fetch("again")


# -- a lost reply with DELIVERY=at_most_once ------------------------------------------------------


def test_at_most_once_jobs_that_wait_for_another_try_survive_a_kill(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    once = {"DELIVERY": "at_most_once", **SOON}
    worker = start_worker(RETRY_DELAY_S=2, **once)
    late = [pipeline.message(*page(60, 90, seed), "long", canvas=CANVAS) for seed in range(20)]
    put_back = [hide(message) for message in late]
    pipeline.fetch(send(pipeline))
    for message in late:
        pipeline.push(message, "long")
    wait_until(lambda: client.zcard(keys.delayed(LONG)) == 20, "all of them wait")
    worker.kill()
    for one in put_back:
        one()
    start_worker(**once)
    for message in late:
        assert pipeline.fetch(message["request_id"]).shape == (60, 90, 3)
    assert not client.exists(keys.DEAD, keys.ATTEMPTS, keys.SUBMISSIONS)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_lost_replies_double_no_job(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    server: RedisServer,
    delivery: str,
) -> None:
    chance = random.Random(3)
    with Proxy(server.port) as proxy:
        proxy.lead_to(server.port)
        worker = start_worker(
            REDIS_URL=f"redis://127.0.0.1:{proxy.port}",
            DELIVERY=delivery,
            RETRY_DELAY_S=0.2,
            MAX_ATTEMPTS=9,
        )
        pipeline.fetch(send(pipeline))
        late = [pipeline.message(*page(60, 90, seed), "long", canvas=CANVAS) for seed in range(12)]
        put_back = [hide(message) for message in late]
        pipeline.push(b"bad", "short")
        payloads = {pipeline.push(message, "long") for message in late}
        for _ in range(8):
            tries = worker.output.count("is tried again")
            proxy.lose_replies(chance, 0.5)
            wait_until(
                lambda known=tries: worker.output.count("is tried again") > known, "it goes on"
            )
        for one in put_back:
            one()
        if delivery == "at_least_once":
            for message in late:
                pipeline.fetch(message["request_id"])
        wait_until(
            lambda: not client.exists(LONG, SHORT, keys.delayed(LONG)) and not processing(client),
            "nothing is left to do",
        )
        assert client.llen(keys.DEAD) <= 1
        # What was sent once was delivered at most once.
        assert worker.output.count(" done: ") <= 1 + len(payloads)
        assert worker.stop() == 0
        pipeline.close()
    for name in segments():
        os.unlink(f"/dev/shm/{name}")


# -- Redis without its data -----------------------------------------------------------------------


def test_a_batch_in_hand_is_published_when_redis_has_lost_all_its_data(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    with RedisServer() as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        worker = start_worker(
            REDIS_URL=server.url, STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1, **SOON
        )
        requests = [send(pipeline, seed=seed) for seed in range(2)]
        wait_until(lambda: worker.output.count("taken from") == 2, "one is read ahead")
        server.kill()
        server.start()
        hold.unlink()
        for request in requests:
            assert pipeline.fetch(request).shape == (60, 90, 3)
        wait_until(lambda: not segments(), "the inputs are unlinked")
        assert "no longer this worker's" not in worker.output
        assert pipeline.fetch(send(pipeline, seed=5)).shape == (60, 90, 3)
        assert worker.stop() == 0


def test_a_batch_in_hand_is_published_once_when_its_messages_are_sent_again_after_the_loss(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    with RedisServer() as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        worker = start_worker(REDIS_URL=server.url, STUB_HOLD=hold, **SOON)
        message = pipeline.message(*page(60, 90, 1), "long", canvas=CANVAS)
        pipeline.push(message, "long")
        worker.wait_for_line("taken from")
        server.kill()
        server.start()
        pipeline.push(message, "long")  # its sender has noticed
        wait_until(lambda: pipeline.redis.exists(keys.CREWS), "the worker is back")
        hold.unlink()
        assert pipeline.fetch(message["request_id"]).shape == (60, 90, 3)
        wait_until(lambda: not pipeline.redis.exists(LONG), "the second one is done with too")
        wait_until(lambda: not processing(pipeline.redis), "nothing is in hand")
        assert worker.stop() == 0
        for key in pipeline.redis.scan_iter("inpainting_result:*"):
            info = json.loads(pipeline.redis.hget(key, "inpaint_shm_info") or "null")
            assert info is None


def test_a_batch_in_hand_is_published_when_redis_comes_back_with_an_older_snapshot(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    with RedisServer() as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        hold.unlink()
        worker = start_worker(REDIS_URL=server.url, STUB_HOLD=hold, **SOON)
        pipeline.fetch(send(pipeline))
        pipeline.redis.save()
        hold.touch()
        request = send(pipeline, seed=2)
        wait_until(lambda: worker.output.count("taken from") == 2, "the second is in hand")
        server.kill()
        server.start()
        hold.unlink()
        try:
            assert pipeline.fetch(request, 5).shape == (60, 90, 3)
        finally:
            pipeline.close()


# -- a failing connection -------------------------------------------------------------------------


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
            REDIS_URL=server.url, STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1, LOG_LEVEL="INFO",
            **SOON,
        )  # fmt: skip
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
    client: redis.Redis,
    server: RedisServer,
    name: str,
) -> None:
    namespace = current_identity(settings_for(server)).namespace
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
    wait_until(lambda: not segments(), "nothing is left of the first try")
    assert not client.exists(keys.ATTEMPTS, keys.DEAD)


@pytest.mark.parametrize("name", [keys.ATTEMPTS, keys.DEAD, keys.CREWS])
def test_a_key_that_becomes_one_of_another_type_ends_the_worker_too_and_costs_no_job(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis, name: str
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
    "missing", ["-evalsha", "-set", "-blmove", "-hset", "-zadd", "-rpush", "-@scripting"]
)
def test_a_missing_right_ends_the_worker_with_one_line_that_names_it(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
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
    finally:
        client.execute_command("ACL", "DELUSER", "narrow")
    start_worker(**SOON)
    assert pipeline.fetch(request).shape == (60, 90, 3)
    wait_until(lambda: not processing(client) and not client.exists(LONG), "all is done")
    wait_until(lambda: len(segments()) == 2 * client.llen(keys.DEAD), "no other input is left")
    assert not client.exists(keys.ATTEMPTS)
    pipeline.close()


def test_whatever_a_script_does_is_among_the_rights_that_are_looked_at() -> None:
    def commands(path: Path) -> set[str]:
        return set(re.findall(r"redis\.call\('([A-Z]+)'", path.read_text()))

    scripts = {path for path in LUA.rglob("*.lua") if path.stem != "rights"}
    used = set().union(*map(commands, scripts))
    assert commands(LUA / "rights.lua") == used


# -- a full server --------------------------------------------------------------------------------


def test_a_queue_that_is_no_list_does_not_hold_up_the_other_with_at_most_once(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    client.hset(LONG, "no", "list")
    start_worker(DELIVERY="at_most_once")
    for seed in range(6):
        assert pipeline.fetch(send(pipeline, "short", seed)).shape == (60, 90, 3)
    client.delete(LONG)
    assert pipeline.fetch(send(pipeline, "long")).shape == (60, 90, 3)


@pytest.fixture
def full(client: redis.Redis) -> Iterator[Callable[[], None]]:
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
    client: redis.Redis,
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
    pipeline: Pipeline, client: redis.Redis, server: RedisServer, full: Callable[[], None]
) -> None:
    settings = settings_for(server)
    about = {"queue": LONG, "namespace": current_identity(settings).namespace}
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
            env=environment, capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done
    assert not client.exists(keys.DEAD)
    assert [json.loads(one)["request_id"] for one in client.lrange(LONG, 0, -1)] == ["r3"]
    assert len(segments()) == 2
    pipeline.close()
    client.delete(LONG)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_a_full_server_loses_no_trace_of_a_message_that_is_too_long(
    start_worker: StartWorker, client: redis.Redis, full: Callable[[], None], delivery: str
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
    client: redis.Redis,
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


# -- many jobs ------------------------------------------------------------------------------------


def test_nothing_is_kept_of_hundreds_of_results_that_were_fetched(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis, server: RedisServer
) -> None:
    start_worker(**SOON)
    key = keys.segments(current_identity(settings_for(server)).namespace)
    for _ in range(4):
        requests = [send(pipeline, "short", seed) for seed in range(100)]
        for request in requests:
            pipeline.fetch(request)
    unread = send(pipeline)
    wait_until(lambda: client.zcount(key, 0, "+inf") == 1, "what was fetched is forgotten")
    wait_until(lambda: client.exists(keys.result(unread)), "there is a result")
    pipeline.fetch(unread)
    wait_until(lambda: client.zcard(key) == 0, "and so is the last one")
    assert not client.exists(keys.SUBMISSIONS, keys.ATTEMPTS)
    wait_until(lambda: not list(client.scan_iter("inpainting:claims:*")), "no claim is noted")


def test_hundreds_of_jobs_without_segments_hold_up_no_good_one(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    worker = start_worker(
        MAX_ATTEMPTS=5, RETRY_DELAY_S=0.1, RETRY_DELAY_MAX_S=0.3, LOG_LEVEL="INFO"
    )
    pipeline.fetch(send(pipeline))
    message = json.loads(without_picture(pipeline))
    for number in range(100):
        pipeline.push({**message, "request_id": f"r{number}"}, "long")
    while client.llen(keys.DEAD) < 101:
        began = time.monotonic()
        pipeline.fetch(send(pipeline, "short"))
        assert time.monotonic() - began < 2
    delays = {float(one) for one in re.findall(r"is tried again in ([\d.]+) s", worker.output)}
    assert delays == {0.1, 0.2, 0.3}
    assert {entry["attempts"] for entry in dead_entries(client)} == {5}
    pipeline.close()


# -- another master, another time -----------------------------------------------------------------


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


def test_a_leap_of_the_clock_removes_no_result_of_a_moment_ago(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis, server: RedisServer
) -> None:
    namespace = current_identity(settings_for(server)).namespace
    clock = f"{namespace} clock"
    worker = start_worker(RESULT_TTL_S=3600, DEAD_TTL_S=3600, **SOON)
    request = send(pipeline)
    send(pipeline, padding_info="bad")
    wait_until(lambda: client.llen(keys.DEAD) == 1, "one is dead")
    wait_until(lambda: client.exists(keys.result(request)), "there is a result")
    # As if the server's clock had gone 25 hours ahead since: all that is noted is older by that.
    day = 25 * 3600
    time_then, at_then = map(int, client.hget(keys.CREWS, clock).split())
    client.hset(keys.CREWS, clock, f"{time_then - day} {at_then - day}")
    ((member, score),) = client.zrange(keys.segments(namespace), 0, -1, withscores=True)
    client.zadd(keys.segments(namespace), {member: score - day})
    entry = json.loads(client.lpop(keys.DEAD))
    client.rpush(keys.DEAD, json.dumps({**entry, "at": entry["at"] - day}))

    def ticked() -> bool:
        return int(client.hget(keys.CREWS, clock).split()[1]) > at_then

    wait_until(ticked, "the clock goes on")
    wait_until(lambda: not client.exists(keys.reaper(namespace)), "a pass is over")
    now = int(client.hget(keys.CREWS, clock).split()[0])
    assert now < time_then - day + 120
    assert client.exists(keys.result(request), keys.DEAD) == 2
    assert pipeline.fetch(request).shape == (60, 90, 3)
    assert worker.stop() == 0
    pipeline.close()


# -- repeated calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("operation", ["retry", "release", "fail", "supersede"])
def test_a_call_whose_reply_is_lost_has_its_effect_once(
    client: redis.Redis,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    delivery: str,
    operation: str,
) -> None:
    settings = settings_for(server).model_copy(update={"delivery": Delivery(delivery)})
    payload = b'{"request_id": "r"}'
    client.rpush(LONG, payload, payload)  # sent twice, and both in hand

    async def main() -> None:
        queues = open_queues(settings, current_identity(settings))
        await queues.register()
        claim, other = await queues.take(Kind.LONG, 2)
        answer = queues._pipelined

        async def lost(*command: Any) -> Any:
            queues._pipelined = answer
            with contextlib.suppress(redis.exceptions.NoScriptError):
                await answer(*command)
                raise redis.exceptions.ConnectionError("the reply is lost")
            raise redis.exceptions.NoScriptError

        for script in queues._scripts.values():
            client.script_load(script.script)
        monkeypatch.setattr(queues, "_pipelined", lost)
        error = JobError("r", "it failed")
        await {
            "retry": lambda: queues.retry(claim),
            "release": lambda: queues.release([claim]),
            "fail": lambda: queues.fail(claim, error, 1, ("r", "")),
            "supersede": lambda: queues.supersede(claim),
        }[operation]()
        assert queues.held() == [other]
        await queues.close()

    asyncio.run(main())
    waiting = client.llen(LONG) + client.zcard(keys.delayed(LONG))
    assert waiting == (operation in ("retry", "release"))
    assert client.llen(keys.DEAD) == (operation == "fail")
    assert processing(client) == (delivery == "at_least_once")
    assert sum(map(int, client.hvals(keys.ATTEMPTS))) == (operation == "retry")
