"""The result queue: one outcome for each published result or failure, whatever is repeated."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from functools import partial
from typing import Any

import pytest
import redis

from chaos.proxy import Proxy
from core import keys
from core.broker.queues import Queues
from core.claims import Ending
from core.config import Settings
from core.errors import Expired, TransientFailure
from harness.admin import PORT, Admin
from harness.jobs import hide, make_message, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Pipeline
from harness.workers import SOON, StartWorker
from tests.core.queueing import claim_one, opened, run

QUEUE = "outcomes"


def outcomes(client: RedisClient, key: str = QUEUE) -> list[dict[str, Any]]:
    """What is in a result queue, the oldest first."""
    return [json.loads(outcome) for outcome in client.lrange(key, 0, -1)]


def assert_full(error: Exception) -> None:
    """The server has refused to take more."""
    assert "maxmemory" in str(error)


def outcome(
    request_id: str, reason: str | None = None, *, is_long: bool = True, image_id: str = ""
) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "image_id": image_id or "picture.jpg",
        "status": "failed" if reason else "done",
        "reason": reason,
        "is_long": is_long,
    }


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_a_receiver_gets_the_outcome_of_every_job_and_its_hash_is_there(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, delivery: str
) -> None:
    worker = start_worker(RESULT_QUEUE=QUEUE, MAX_ATTEMPTS=1, DELIVERY=delivery)
    send(pipeline, "long", request_id="요청 1", image_id="그림.jpg")
    send(pipeline, "short", request_id="r2")
    send(pipeline, "short", request_id="r3", padding_info="bad")
    missing = make_message(pipeline, request_id="r4")
    put_back = hide(missing)
    pipeline.push(missing, "long")
    send(pipeline, request_id="r5", expires_at=1)
    pipeline.push(b'{"request_id": "r6", "image_id": "a"} and more', "short")
    client.rpush(LONG, json.dumps({"request_id": "r7", "image_id": "x", "more": "x" * 2_000_000}))
    pipeline.push(b"no request at all", "short")
    found: dict[str, Any] = {}
    while len(found) < 7:
        _, text = client.blpop(QUEUE, timeout=20)
        told = json.loads(text)
        found[told["request_id"]] = told
        assert client.exists(keys.result(told["request_id"])), "the hash comes with the outcome"
    assert found == {
        "요청 1": outcome("요청 1", image_id="그림.jpg"),
        "r2": outcome("r2", is_long=False),
        "r3": outcome("r3", "bad_field", is_long=False),
        "r4": outcome("r4", "segment_missing"),
        "r5": outcome("r5", "expired"),
        "r6": outcome("r6", "bad_json", is_long=False, image_id="a"),
        "r7": outcome("r7", "too_long", image_id="x"),
    }
    wait_until(lambda: client.llen(keys.DEAD) == 5, "the message without a request is dead too")
    assert not client.exists(QUEUE)
    put_back()
    assert worker.stop() == 0
    for request in ("요청 1", "r2"):
        pipeline.fetch(request)


def test_each_request_can_have_a_queue_of_its_own_that_expires(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    start_worker(RESULT_QUEUE="done:{request_id}:end", RESULT_TTL_S=100)
    for number in range(2):
        send(pipeline, request_id=f"r{number}")
    for number in range(2):
        key = f"done:r{number}:end"
        wait_until(partial(client.exists, key), "it is told")
        assert 90 < client.ttl(key) <= 100
        assert outcomes(client, key) == [outcome(f"r{number}")]
        pipeline.fetch(f"r{number}")


def test_a_shared_queue_keeps_the_newest_outcomes_and_says_that_others_are_dropped(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(RESULT_QUEUE=QUEUE, RESULT_QUEUE_MAX=2, ADMIN_PORT=PORT)
    for number in range(5):
        send(pipeline, request_id=f"r{number}", padding_info="bad")
        pipeline.result(f"r{number}")
    assert [told["request_id"] for told in outcomes(client)] == ["r3", "r4"]
    assert client.ttl(QUEUE) == -1
    worker.wait_for_line("more than RESULT_QUEUE_MAX=2 outcomes")
    admin = Admin(worker)
    assert admin.metrics()["inpainting_result_queue_dropped_total",] == 3
    wait_until(lambda: admin.metrics()["inpainting_result_queue_outcomes",] == 2, "it is sampled")


def test_a_result_queue_of_another_type_stops_no_job_and_is_reported(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    client.set(QUEUE, "somebody else's")
    worker = start_worker(RESULT_QUEUE=QUEUE, MAX_ATTEMPTS=1)
    pipeline.fetch(send(pipeline))
    send(pipeline, request_id="bad", padding_info="bad")
    assert pipeline.result("bad")["reason"] == "bad_field"
    worker.wait_for_line("outcomes are not pushed: RESULT_QUEUE 'outcomes' in redis is not a list")
    assert client.get(QUEUE) == b"somebody else's"
    client.delete(QUEUE)
    pipeline.fetch(send(pipeline, request_id="later"))
    assert outcomes(client) == [outcome("later")]


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_lost_replies_double_no_outcome(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    server: RedisServer,
    delivery: str,
) -> None:
    chance = random.Random(7)
    with Proxy(server.port) as proxy:
        proxy.lead_to(server.port)
        worker = start_worker(
            REDIS_URL=f"redis://127.0.0.1:{proxy.port}",
            DELIVERY=delivery,
            RESULT_QUEUE=QUEUE,
            **SOON,
        )
        pipeline.fetch(send(pipeline, request_id="first"))
        expected: dict[str, str | None] = {"first": None}
        for round_ in range(8):
            request = f"r{round_}"
            expected |= {f"{request}a": None, f"{request}b": "bad_field", f"{request}c": "expired"}
            expected[f"{request}d"] = "too_long"
            send(pipeline, request_id=f"{request}a")
            send(pipeline, request_id=f"{request}b", padding_info="bad")
            send(pipeline, request_id=f"{request}c", expires_at=1)
            long = {"request_id": f"{request}d", "image_id": "x", "more": "x" * 1_100_000}
            client.rpush(SHORT, json.dumps(long))
            proxy.lose_replies(chance, 0.3)
            wait_until(lambda: not client.exists(LONG, SHORT), "nothing is queued")
        if delivery == "at_least_once":
            wait_until(lambda: len(outcomes(client)) >= len(expected), "all are told")
        assert worker.stop() == 0  # what is in hand is finished first
    told = [(told["request_id"], told["reason"]) for told in outcomes(client)]
    if delivery == "at_most_once":  # a job whose reply was lost on the way out is lost
        assert len(told) == len(set(told))
        assert set(told) <= set(expected.items())
    else:
        assert sorted(told) == sorted(expected.items())
    for request in client.scan_iter("inpainting_result:*"):
        if client.hexists(request, "inpaint_shm_info"):
            pipeline.fetch(request.decode().removeprefix("inpainting_result:"))
    pipeline.close()


def test_a_failure_beside_a_result_is_not_told_as_its_hash_is_not_written(raw: RedisClient) -> None:
    async def scenario(queues: Queues) -> None:
        raw.rpush(LONG, b'{"request_id": "r"}', b'{"request_id": "r"}')
        first, second = await claim_one(queues), await claim_one(queues)
        await queues.enter([first, second])
        info = {"image_id": "a", "inpaint_shm_info": '{"shm_name": "s1"}'}
        assert await queues.commit(first, "r", "s1", info) == (Ending.COMMITTED, "")
        error = TransientFailure("segment_missing", "gone")
        assert await queues.fail(second, error, 3, ("r", "a")) is Ending.FAILED
        assert outcomes(raw) == [outcome("r", image_id="a")]

    run(raw, scenario, result_queue=QUEUE)


@pytest.mark.parametrize("command", [("SET", "x"), ("RPUSH", "x"), ("SADD", "x")])
def test_a_failure_is_told_although_the_key_of_its_result_is_of_another_type(
    raw: RedisClient, command: tuple[str, str]
) -> None:
    async def scenario(queues: Queues) -> None:
        name, value = command
        raw.execute_command(name, keys.result("r"), value)
        raw.rpush(LONG, b'{"request_id": "r"}')
        claim = await claim_one(queues)
        await queues.enter([claim])
        error = TransientFailure("segment_missing", "gone")
        assert await queues.fail(claim, error, 3, ("r", "a")) is Ending.FAILED
        assert raw.hget(keys.result("r"), "reason") == b"segment_missing"
        assert raw.pttl(keys.result("r")) > 0
        assert len(outcomes(raw)) == 1

    run(raw, scenario, result_queue=QUEUE)


def test_repeated_calls_of_another_worker_object_push_once(raw: RedisClient) -> None:
    """A call is repeated when its reply is lost; the second one finds what the first one did."""

    async def scenario(queues: Queues) -> None:
        raw.rpush(LONG, b'{"request_id": "r"}')
        claim = await claim_one(queues)
        error = Expired("expired", "late")
        epoch = dict(queues._epochs)
        assert await queues.lapse(claim, ("r", "a"), error) is Ending.EXPIRED
        queues._in_flight[claim] += 1
        queues._epochs.update(epoch)

        async def repeated(call: Any) -> Any:
            return await call(True)

        queues.link.repeat_until_answered = repeated  # type: ignore[assignment,method-assign]
        assert await queues.lapse(claim, ("r", "a"), error) is Ending.EXPIRED
        assert outcomes(raw) == [outcome("r", "expired", image_id="a")]
        assert raw.lrange(keys.cleanup(queues.identity.worker), 0, -1) == [claim.payload]

    run(raw, scenario, result_queue=QUEUE)


def test_a_full_server_takes_outcome_and_result_together_later(raw: RedisClient) -> None:
    async def scenario(queues: Queues) -> None:
        raw.rpush(LONG, b'{"request_id": "r"}')
        claim = await claim_one(queues)
        raw.config_set("maxmemory", 1)
        calls = 0

        async def freed(call: Any) -> Any:
            nonlocal calls
            while True:
                calls += 1
                try:
                    return await call(calls > 1)
                except redis.ResponseError as error:  # of several classes, by the server's age
                    assert_full(error)
                    assert not raw.exists(keys.result("r"), QUEUE)
                    raw.config_set("maxmemory", 0)

        queues.link.repeat_until_answered = freed  # type: ignore[assignment,method-assign]
        info = {"image_id": "a", "inpaint_shm_info": '{"shm_name": "s1"}'}
        assert await queues.commit(claim, "r", "s1", info) == (Ending.COMMITTED, "")
        assert calls == 2
        assert outcomes(raw) == [outcome("r", image_id="a")]

    run(raw, scenario, result_queue=QUEUE)


def test_without_the_right_to_the_result_queue_a_worker_says_so_at_its_start(
    raw: RedisClient,
) -> None:
    raw.execute_command(
        "ACL", "SETUSER", "limited", "reset", "on", ">secret", "~inpainting*", "~lama*", "+@all"
    )
    port = raw.connection_pool.connection_kwargs["port"]
    url = f"redis://limited:secret@127.0.0.1:{port}"

    async def scenario() -> None:
        async with opened(raw, redis_url=url, result_queue=QUEUE) as queues:
            with pytest.raises(Exception, match="access"):
                await queues.check_server()

    try:
        asyncio.run(scenario())
    finally:
        raw.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("inpainting:dead", "a key of the worker"),
        ("{request_id}", "a key of the worker"),
        ("in{request_id}", "a key of the worker"),
        ("inpainting_result:{request_id}", "a key of the worker"),
        (LONG, "the queue of long jobs"),
        ("lama_inference:{request_id}", "the queue of"),
        ("done:{request}", "'{request}' is not known"),
        ("done:{request_id", "'{request_id' is not known"),
        ("done}", "'}' is not known"),
        ("done:\udcff", "UTF-8"),
    ],
)
def test_a_result_queue_that_could_name_another_key_is_refused(
    value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Settings(_env_file=None, result_queue=value)


def test_a_result_queue_may_have_the_name_of_the_host() -> None:
    settings = Settings(_env_file=None, result_queue="done:{host}:{request_id}")
    assert settings.result_queue == f"done:{socket.gethostname()}:{{request_id}}"
