"""The scripts that end a claim without a result: failed, retried, given back."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core import keys
from core.broker.queues import Queues
from core.claims import Ending
from core.errors import JobError
from core.keys import Kind
from harness.redis_server import RedisClient
from harness.wire import LONG, SHORT
from tests.core.queueing import ERROR, ME, PROCESSING, claim_one, kept, run


def test_a_failed_job_is_on_the_dead_letter_list_and_its_request_knows(raw: RedisClient) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.fail(claim, ERROR, 3, ("r", "a.jpg")) is Ending.FAILED

    run(raw, scenario, result_ttl_s=50)
    entry = json.loads(raw.lindex(keys.DEAD, 0))
    assert entry.pop("at") > 0
    assert entry == {
        "raw": "job",
        "reason": "bad_json",
        "error": "the message is not JSON",
        "attempts": 3,
        "queue": LONG,
        "worker": ME.worker,
        "namespace": "boot-1",
        "length": 3,
        "sha1": keys.sha1(b"job"),
        "request_id": "",
        "image_id": "",
        "inputs": [],
    }
    fields = raw.hgetall("inpainting_result:r")
    assert (fields[b"status"], fields[b"error"]) == (b"failed", b"the message is not JSON")
    assert b"inpaint_shm_info" not in fields
    assert 0 < raw.ttl("inpainting_result:r") <= 50
    assert kept(raw) == [b"inpainting:dead", b"inpainting_result:r"]
    assert not raw.exists(keys.claims(ME.worker))


def test_a_payload_that_is_no_text_is_kept_byte_for_byte(
    raw: RedisClient,
) -> None:
    raw.rpush(LONG, b"\xff\x00{")

    async def scenario(queues: Queues) -> None:
        assert await queues.fail(await claim_one(queues), ERROR, 1, None)

    run(raw, scenario)
    entry = json.loads(raw.lindex(keys.DEAD, 0))
    assert base64.b64decode(entry["raw_base64"]) == b"\xff\x00{"
    assert kept(raw) == [b"inpainting:dead"]


def test_a_failure_never_overwrites_a_result(raw: RedisClient) -> None:
    raw.rpush(LONG, b"job")
    raw.hset("inpainting_result:r", "inpaint_shm_info", "{}")

    async def scenario(queues: Queues) -> None:
        assert await queues.fail(await claim_one(queues), ERROR, 1, ("r", "i"))

    run(raw, scenario)
    assert raw.hgetall("inpainting_result:r") == {b"inpaint_shm_info": b"{}"}
    assert raw.ttl("inpainting_result:r") == -1


@pytest.mark.parametrize("counted", [True, False])
def test_a_retried_job_goes_to_the_tail_with_an_attempt_if_it_counts(
    raw: RedisClient, counted: bool
) -> None:
    raw.rpush(LONG, b"job", b"next")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.retry(claim, counted=counted) is Ending.WAITS
        assert raw.lrange(LONG, 0, -1) == [b"next", b"job"]
        assert raw.hget(keys.ATTEMPTS, claim.sha1) == (b"1" if counted else None)

    run(raw, scenario)


def test_released_jobs_are_back_at_the_head_in_order_and_without_an_attempt(
    raw: RedisClient,
) -> None:
    raw.rpush(LONG, b"a", b"b", b"c", b"d")
    raw.rpush(SHORT, b"x", b"y")

    async def scenario(queues: Queues) -> None:
        claims = await queues.take(Kind.LONG, 3) + await queues.take(Kind.SHORT, 1)
        await queues.release(claims)
        assert raw.lrange(LONG, 0, -1) == [b"a", b"b", b"c", b"d"]
        assert raw.lrange(SHORT, 0, -1) == [b"x", b"y"]
        assert kept(raw) == sorted([LONG.encode(), SHORT.encode()])

    run(raw, scenario)


@pytest.mark.parametrize("operation", ["retry", "release"])
def test_a_full_server_lets_jobs_be_given_back(raw: RedisClient, operation: str) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        await queues.enter([claim])
        raw.config_set("maxmemory", 1)
        await (queues.retry(claim) if operation == "retry" else queues.release([claim]))
        assert raw.lrange(LONG, 0, -1) == [b"job"]
        assert not raw.exists(PROCESSING, keys.claims(ME.worker))

    run(raw, scenario)


@pytest.mark.parametrize("operation", ["commit", "fail"])
def test_a_full_server_refuses_before_anything_has_changed(
    raw: RedisClient, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        finish = {
            "commit": lambda: queues.commit(claim, "r", "s", {"a": "1"}),
            "fail": lambda: queues.fail(claim, ERROR, 1, ("r", "i")),
        }
        before = {key: raw.dump(key) for key in raw.scan_iter()}
        raw.config_set("maxmemory", 1)
        finishing = asyncio.ensure_future(finish[operation]())
        while "used memory" not in caplog.text:
            await asyncio.sleep(0.005)
        assert {key: raw.dump(key) for key in raw.scan_iter()} == before
        raw.config_set("maxmemory", 0)
        await finishing  # held back, not lost
        assert not raw.exists(PROCESSING)

    run(raw, scenario)


def test_jobs_wait_for_another_try_in_redis_each_copy_by_itself(raw: RedisClient) -> None:
    raw.rpush(LONG, b"a", b"a", b"b")

    async def scenario(queues: Queues) -> None:
        for claim in await queues.take(Kind.LONG, 3):
            assert await queues.retry(claim, delay_s=100) is Ending.WAITS
        assert raw.zrange(keys.delayed(LONG), 0, -1) == [b"a", b"a\x001", b"b"]
        moved, next_s = await queues.promote(Kind.LONG)
        assert moved == 0
        assert next_s is not None
        assert 90 < next_s <= 100
        for member in raw.zrange(keys.delayed(LONG), 0, -1):
            raw.zadd(keys.delayed(LONG), {member: 1})
        assert await queues.promote(Kind.LONG) == (3, None)
        assert sorted(raw.lrange(LONG, 0, -1)) == [b"a", b"a", b"b"]
        assert raw.hgetall(keys.ATTEMPTS) == {
            keys.sha1(b"a").encode(): b"2",
            keys.sha1(b"b").encode(): b"1",
        }

    run(raw, scenario)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("operation", ["retry", "fail", "release"])
def test_a_call_whose_reply_was_lost_is_done_once(
    raw: RedisClient, delivery: str, operation: str
) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        repeat_until_answered = queues.link.repeat_until_answered

        async def losing(call: Callable[[bool], Awaitable[Any]]) -> Any:
            await call(False)
            # Meanwhile the same message is claimed once more, by the same worker.
            raw.rpush(PROCESSING, b"job")
            return await repeat_until_answered(lambda _: call(True))

        claim = await claim_one(queues)
        queues.link.repeat_until_answered = losing  # type: ignore[method-assign, assignment]
        if operation == "retry":
            assert await queues.retry(claim, delay_s=100) is Ending.WAITS
            assert raw.zcard(keys.delayed(LONG)) == 1
            assert raw.hget(keys.ATTEMPTS, claim.sha1) == b"1"
        elif operation == "fail":
            assert await queues.fail(claim, ERROR, 1, None) is Ending.FAILED
            assert raw.llen(keys.DEAD) == 1
        else:
            await queues.release([claim])
            assert raw.lrange(LONG, 0, -1) == [b"job"]
        assert raw.lrange(PROCESSING, 0, -1) == [b"job"]

    run(raw, scenario, delivery=delivery)


def test_two_jobs_in_a_row_are_not_given_up_for_a_fault_of_the_device(raw: RedisClient) -> None:
    raw.rpush(LONG, b"a", b"b", b"c")
    crashed = JobError("crashed", "every worker died on it")

    async def scenario(queues: Queues) -> None:
        first, second, third = await queues.take(Kind.LONG, 3)
        assert await queues.fail(first, crashed, 3, None, device=True) is Ending.FAILED
        assert not await queues.is_device_held()
        assert await queues.fail(second, crashed, 3, None, device=True) is Ending.HELD
        assert await queues.is_device_held()
        assert raw.llen(keys.DEAD) == 1
        # What is refused for itself says nothing of the device.
        assert await queues.fail(third, ERROR, 1, None) is Ending.FAILED
        assert await queues.commit(second, "r", "s", {"a": "1"}) == (Ending.COMMITTED, "")
        assert not await queues.is_device_held()

    run(raw, scenario)
