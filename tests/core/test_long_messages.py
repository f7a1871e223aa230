"""A message of any length costs a worker no memory and no good job any time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import keys
from core.keys import Kind
from harness.admin import PORT, Admin
from harness.jobs import CANVAS, dead_entries, processing, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Pipeline, page
from harness.workers import SOON, StartWorker, segments, worker_id
from tests.core.support import Memory, leave_behind

MIB = 1 << 20


#: Bytes of a message that no worker must hold in memory, and by how much one may grow meanwhile.
HUGE = 20_000_000


MOST_GROWTH = 8 * MIB


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
    client: RedisClient,
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
    told = client.hgetall("inpainting_result:huge")
    assert told.get(b"reason") == (b"too_long" if make is huge_object else None)
    assert not client.exists(keys.ATTEMPTS)
    assert worker.stop() == 0


def test_a_message_of_any_length_that_a_dead_worker_had_is_refused_too(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, server: RedisServer
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
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
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
    start_worker: StartWorker, client: RedisClient, delivery: str, waits: bool
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
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, server: RedisServer
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
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
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
