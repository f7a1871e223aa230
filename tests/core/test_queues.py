"""The Lua scripts on a real server: a job is in one place at every moment.

Everything here runs on the newest packaged Redis and on 6.2, the oldest supported one.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from core import keys
from core.broker.at_most_once import open_queues
from core.broker.queues import Queues
from core.claims import Claim, Outcome, Standing
from core.config import Settings
from core.errors import BadMessage, JobError, RedisUnsuitable
from core.identity import Identity
from core.keys import Kind
from harness.wire import LONG, SHORT

ME = Identity("host-1-0a0b0c0d", "boot-1", "host", 1, 0)
OTHER = Identity("host-2-0a0b0c0d", "boot-1", "host", 2, 0)
PROCESSING = keys.processing(ME.worker, Kind.LONG)
ERROR = BadMessage("bad_json", "the message is not JSON")


def settings_of(raw: redis.Redis, **changes: Any) -> Settings:
    port = raw.connection_pool.connection_kwargs["port"]
    return Settings(_env_file=None, redis_url=f"redis://127.0.0.1:{port}", **changes)


@asynccontextmanager
async def opened(
    raw: redis.Redis, identity: Identity = ME, **changes: Any
) -> AsyncIterator[Queues]:
    queues = open_queues(settings_of(raw, **changes), identity)
    try:
        yield queues
    finally:
        await queues.close()


#: What workers note of themselves and of each other.
NOTES = {keys.CREWS.encode(), keys.workers("boot-1").encode(), keys.claims(ME.worker).encode()}


def kept(raw: redis.Redis) -> list[bytes]:
    """All keys but these notes."""
    return sorted(key for key in raw.scan_iter() if key not in NOTES)


def run(raw: redis.Redis, scenario: Callable[[Queues], Awaitable[None]], **changes: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), opened(raw, **changes) as queues:
            await scenario(queues)

    asyncio.run(main())


async def claim_one(queues: Queues) -> Claim:
    (claim,) = await queues.take(Kind.LONG, 1)
    return claim


def test_a_claim_moves_jobs_from_the_head_in_order_byte_for_byte(raw: redis.Redis) -> None:
    payloads = [b"\x00\xff", "ü".encode(), b"c"]
    raw.rpush(LONG, *payloads)

    async def scenario(queues: Queues) -> None:
        claims = await queues.take(Kind.LONG, 2)
        assert [claim.payload for claim in claims] == payloads[:2]
        assert raw.lrange(PROCESSING, 0, -1) == payloads[:2]
        assert raw.lrange(LONG, 0, -1) == payloads[2:]
        assert await queues.take(Kind.SHORT, 2) == []

    run(raw, scenario)


def test_a_job_with_an_attempt_is_claimed_alone(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"tried", b"a", b"b", b"tried too", b"c")
    raw.hset(keys.ATTEMPTS, mapping={keys.sha1(one): 1 for one in (b"tried", b"tried too")})

    async def scenario(queues: Queues) -> None:
        for batch in ([b"tried"], [b"a", b"b"], [b"tried too"], [b"c"]):
            claims = await queues.take(Kind.LONG, 4)
            assert [claim.payload for claim in claims] == batch

    run(raw, scenario)


def test_jobs_join_neither_one_that_has_an_attempt_nor_the_other_way_round(
    raw: redis.Redis,
) -> None:
    raw.rpush(LONG, b"new", b"tried", b"last")
    raw.hset(keys.ATTEMPTS, keys.sha1(b"tried"), 1)

    async def scenario(queues: Queues) -> None:
        new = await claim_one(queues)
        assert await queues.take(Kind.LONG, 3, new) == []
        tried = await claim_one(queues)
        assert tried.payload == b"tried"
        assert await queues.take(Kind.LONG, 3, tried) == []
        assert [claim.payload for claim in await queues.take(Kind.LONG, 3, new)] == [b"last"]

    run(raw, scenario)


def test_a_queue_that_is_no_list_is_named_once_and_does_not_hold_up_the_other(
    raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    raw.set(LONG, "no list")

    async def scenario(queues: Queues) -> None:
        assert await queues.take(Kind.LONG, 4) == []
        assert await queues.wait_for_either(Kind.LONG) == []
        raw.rpush(SHORT, b"job")
        claims = await queues.take(Kind.LONG, 4) + await queues.wait_for_either(Kind.LONG)
        assert claims == [Claim(Kind.SHORT, b"job")]
        raw.rename(LONG, "elsewhere")
        raw.rpush(LONG, b"job")
        assert await queues.wait_for_either(Kind.SHORT) == [Claim(Kind.LONG, b"job")]

    run(raw, scenario)
    (complaint,) = [record.getMessage() for record in caplog.records]
    assert f"'{LONG}' in redis is not a list" in complaint


def test_waiting_ends_as_soon_as_a_job_arrives_on_either_queue(raw: redis.Redis) -> None:
    async def scenario(queues: Queues) -> None:
        for queue, kind in ((LONG, Kind.LONG), (SHORT, Kind.SHORT)):
            waiting = asyncio.ensure_future(queues.wait_for_either(Kind.LONG))
            while raw.info("clients")["blocked_clients"] < 2:
                await asyncio.sleep(0.001)
            raw.rpush(queue, b"job")
            async with asyncio.timeout(0.5):  # a quarter of what the wait would last by itself
                assert await waiting == [Claim(kind, b"job")]
            assert raw.info("clients")["blocked_clients"] == 0

    run(raw, scenario)


def test_a_wait_can_be_ended_without_losing_a_job(raw: redis.Redis) -> None:
    async def scenario(queues: Queues) -> None:
        for number in range(100):
            waiting = asyncio.ensure_future(queues.wait_for_either(Kind.LONG))
            while raw.info("clients")["blocked_clients"] < 2:
                await asyncio.sleep(0)
            pushed = asyncio.to_thread(raw.rpush, LONG, str(number))
            await asyncio.gather(pushed, queues.unblock())
            claims = await waiting
            queued = raw.lrange(LONG, 0, -1)
            assert len(claims) + len(queued) == 1
            raw.delete(LONG)
            for claim in claims:
                await queues.release([claim])
            raw.delete(LONG)

    run(raw, scenario)


def test_a_user_who_may_not_unblock_still_gets_the_jobs(raw: redis.Redis) -> None:
    raw.execute_command(
        "ACL", "SETUSER", "narrow", "on", ">x", "~*", "+@all", "-client", "+client|id"
    )
    port = raw.connection_pool.connection_kwargs["port"]

    async def main() -> None:
        settings = Settings(_env_file=None, redis_url=f"redis://narrow:x@127.0.0.1:{port}")
        queues = Queues(settings, ME)
        await queues.check_server()
        raw.rpush(SHORT, b"job")
        async with asyncio.timeout(1):
            assert await queues.wait_for_either(Kind.LONG) == [Claim(Kind.SHORT, b"job")]
        await queues.close()

    asyncio.run(main())
    raw.execute_command("ACL", "DELUSER", "narrow")


def test_a_commit_publishes_the_result_and_leaves_the_inputs_for_cleanup(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"job")
    raw.hset(keys.ATTEMPTS, Claim(Kind.LONG, b"job").sha1, 2)
    raw.hset("inpainting_result:r", mapping={"status": "failed", "error": "earlier"})
    raw.expire("inpainting_result:r", 100)

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.enter([claim]) == [Standing(2)]
        fields = {"image_id": "a.jpg", "inpaint_shm_info": '{"shm_name": "s1"}'}
        assert await queues.commit(claim, "r", "s1", fields) == (Outcome.COMMITTED, "")
        assert raw.hgetall("inpainting_result:r") == {
            name.encode(): value.encode() for name, value in fields.items()
        }
        assert raw.ttl("inpainting_result:r") == -1
        assert raw.llen(PROCESSING) == 0
        assert raw.lrange(keys.cleanup(ME.worker), 0, -1) == [b"job"]
        assert raw.zrange(keys.segments("boot-1"), 0, -1) == [b"s1 r"]
        assert not raw.exists(keys.ATTEMPTS)
        await queues.cleaned(claim)
        assert not raw.exists(keys.cleanup(ME.worker))

    run(raw, scenario)


def test_a_commit_is_one_hset(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"job")
    raw.config_set("notify-keyspace-events", "KEA")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        with raw.pubsub(ignore_subscribe_messages=True) as events:
            events.psubscribe("__keyevent@*__:hset")
            events.get_message(timeout=1)
            await queues.commit(claim, "r", "s", {"a": "1", "b": "2"})
            seen = []
            while message := events.get_message(timeout=0.2):
                seen.append(message["data"])
        assert seen == [b"inpainting_result:r"]

    run(raw, scenario)
    raw.config_set("notify-keyspace-events", "")


def test_a_commit_whose_reply_was_lost_is_recognised_when_it_is_repeated(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"job", b"job")

    async def scenario(queues: Queues) -> None:
        first, second = await queues.take(Kind.LONG, 2)
        assert await queues.commit(first, "r", "s1", {"inpaint_shm_info": "{}"}) == (
            Outcome.COMMITTED,
            "",
        )
        raw.delete("inpainting_result:r")  # the consumer has fetched it meanwhile
        assert await queues.commit(first, "r", "s1", {"inpaint_shm_info": "{}"}) == (
            Outcome.COMMITTED,
            "",
        )
        assert not raw.exists("inpainting_result:r")
        # The same message was sent twice: the second one is still to be done.
        assert raw.lrange(PROCESSING, 0, -1) == [second.payload]

    run(raw, scenario)


def test_a_job_that_was_taken_away_is_not_committed_failed_or_retried(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        raw.lmove(PROCESSING, LONG, "LEFT", "LEFT")
        assert (await queues.commit(claim, "r", "s", {"a": "1"}))[0] is Outcome.LOST
        assert await queues.fail(claim, ERROR, 1, ("r", "i")) is Outcome.LOST
        assert await queues.retry(claim) is Outcome.LOST
        await queues.release([claim])
        assert kept(raw) == [LONG.encode()]
        assert raw.llen(LONG) == 1

    run(raw, scenario)


def test_a_newer_result_replaces_the_older_one_and_names_its_segment(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"first", b"second", b"first")

    async def scenario(queues: Queues) -> None:
        first, second, _ = await queues.take(Kind.LONG, 3)
        info = {"inpaint_shm_info": json.dumps({"shm_name": "s1"}), "only_in_first": "x"}
        await queues.commit(first, "r", "s1", info)
        info = {"inpaint_shm_info": json.dumps({"shm_name": "s2"})}
        assert await queues.commit(second, "r", "s2", info) == (Outcome.COMMITTED, "s1")
        assert list(raw.hgetall("inpainting_result:r")) == [b"inpaint_shm_info"]
        # Marked as nobody's, so that it is removed even if this worker dies now.
        assert raw.zscore(keys.segments("boot-1"), "s1 r") == 0
        await queues.forget_replaced("r", "s1")
        assert raw.zrangebyscore(keys.segments("boot-1"), 0, "+inf") == [b"s2 r"]
        # Were it the reply to the first commit that was lost, this would be its repetition.
        assert await queues.commit(first, "r", "s1", info) == (Outcome.COMMITTED, "s1")
        # Others have unlinked its inputs, as after a worker that is taken for dead.
        await queues.cleaned(first)
        assert await queues.commit(first, "r", "s1", info) == (Outcome.LOST, "")
        assert json.loads(raw.hget("inpainting_result:r", "inpaint_shm_info"))["shm_name"] == "s2"

    run(raw, scenario)


@pytest.mark.parametrize("info", ["", "[]", "null", '{"shm_name": 7}', '{"shm_name": "foreign"}'])
def test_a_segment_that_no_worker_of_this_namespace_wrote_is_never_named_as_replaced(
    raw: redis.Redis, info: str
) -> None:
    raw.rpush(LONG, b"job")
    raw.hset("inpainting_result:r", "inpaint_shm_info", info)

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.commit(claim, "r", "s", {"a": "1"}) == (Outcome.COMMITTED, "")

    run(raw, scenario)


def test_a_result_key_of_another_type_does_not_stop_a_commit(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"job")
    raw.set("inpainting_result:r", "not a hash")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.commit(claim, "r", "s", {"a": "1"}) == (Outcome.COMMITTED, "")
        assert raw.hgetall("inpainting_result:r") == {b"a": b"1"}

    run(raw, scenario)


def test_a_failed_job_is_on_the_dead_list_and_its_request_knows(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.fail(claim, ERROR, 3, ("r", "a.jpg")) is Outcome.FAILED

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


def test_a_payload_that_is_no_text_is_kept_byte_for_byte_on_the_dead_list(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"\xff\x00{")

    async def scenario(queues: Queues) -> None:
        assert await queues.fail(await claim_one(queues), ERROR, 1, None)

    run(raw, scenario)
    entry = json.loads(raw.lindex(keys.DEAD, 0))
    assert base64.b64decode(entry["raw_base64"]) == b"\xff\x00{"
    assert kept(raw) == [b"inpainting:dead"]


def test_a_failure_never_overwrites_a_result(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"job")
    raw.hset("inpainting_result:r", "inpaint_shm_info", "{}")

    async def scenario(queues: Queues) -> None:
        assert await queues.fail(await claim_one(queues), ERROR, 1, ("r", "i"))

    run(raw, scenario)
    assert raw.hgetall("inpainting_result:r") == {b"inpaint_shm_info": b"{}"}
    assert raw.ttl("inpainting_result:r") == -1


@pytest.mark.parametrize("counted", [True, False])
def test_a_retried_job_goes_to_the_tail_with_an_attempt_if_it_counts(
    raw: redis.Redis, counted: bool
) -> None:
    raw.rpush(LONG, b"job", b"next")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.retry(claim, counted=counted) is Outcome.WAITS
        assert raw.lrange(LONG, 0, -1) == [b"next", b"job"]
        assert raw.hget(keys.ATTEMPTS, claim.sha1) == (b"1" if counted else None)

    run(raw, scenario)


def test_released_jobs_are_back_at_the_head_in_order_and_without_an_attempt(
    raw: redis.Redis,
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


def test_jobs_claimed_without_a_reply_are_found_and_those_in_hand_are_not(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"known", b"known", b"unknown")

    async def scenario(queues: Queues) -> None:
        known = await claim_one(queues)
        raw.lmove(LONG, PROCESSING, "LEFT", "RIGHT")  # a second one like it, and another:
        raw.lmove(LONG, PROCESSING, "LEFT", "RIGHT")  # claims whose replies never came
        found = await queues.reconcile()
        assert sorted(claim.payload for claim in found) == [b"known", b"unknown"]
        assert await queues.reconcile() == []
        await queues.retry(known)
        assert await queues.reconcile() == []

    run(raw, scenario)


@pytest.mark.parametrize("operation", ["retry", "release"])
def test_a_full_server_lets_jobs_be_given_back(raw: redis.Redis, operation: str) -> None:
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
    raw: redis.Redis, operation: str, caplog: pytest.LogCaptureFixture
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


def test_a_message_above_the_limit_is_refused_where_it_is_and_never_read(raw: redis.Redis) -> None:
    large = b"\xff" * 5000
    raw.rpush(LONG, large, b"good", b"behind", large)

    async def scenario(queues: Queues) -> None:
        assert [claim.payload for claim in await queues.take(Kind.LONG, 4)] == [b"good", b"behind"]
        assert await queues.take(Kind.LONG, 4) == []
        raw.rpush(SHORT, large)
        assert await queues.wait_for_either(Kind.SHORT) == []
        raw.rpush(PROCESSING, large)  # as a claim whose reply was lost
        assert await queues.reconcile() == []

    run(raw, scenario, max_message_bytes=4000)
    assert not raw.exists(LONG, SHORT)
    entries = [json.loads(entry) for entry in raw.lrange(keys.DEAD, 0, -1)]
    assert [entry["queue"] for entry in entries] == [LONG, LONG, SHORT, LONG]
    for entry in entries:
        assert (entry["reason"], entry["truncated"]) == ("too_long", True)
        assert (entry["length"], entry["sha1"]) == (5000, keys.sha1(large))
        assert entry["raw"] == "\ufffd" * 1024


def test_jobs_wait_for_another_try_in_redis_each_copy_by_itself(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"a", b"a", b"b")

    async def scenario(queues: Queues) -> None:
        for claim in await queues.take(Kind.LONG, 3):
            assert await queues.retry(claim, delay_s=100) is Outcome.WAITS
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
    raw: redis.Redis, delivery: str, operation: str
) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        retry_until_answered = queues.link.retry_until_answered

        async def losing(call: Callable[[bool], Awaitable[Any]]) -> Any:
            await call(False)
            # Meanwhile the same message is claimed once more, by the same worker.
            raw.rpush(PROCESSING, b"job")
            return await retry_until_answered(lambda _: call(True))

        claim = await claim_one(queues)
        queues.link.retry_until_answered = losing  # type: ignore[method-assign]
        if operation == "retry":
            assert await queues.retry(claim, delay_s=100) is Outcome.WAITS
            assert raw.zcard(keys.delayed(LONG)) == 1
            assert raw.hget(keys.ATTEMPTS, claim.sha1) == b"1"
        elif operation == "fail":
            assert await queues.fail(claim, ERROR, 1, None) is Outcome.FAILED
            assert raw.llen(keys.DEAD) == 1
        else:
            await queues.release([claim])
            assert raw.lrange(LONG, 0, -1) == [b"job"]
        assert raw.lrange(PROCESSING, 0, -1) == [b"job"]

    run(raw, scenario, delivery=delivery)


def message(request_id: str, edition: int) -> bytes:
    return json.dumps({"request_id": request_id, "edition": edition}).encode()


def test_an_older_submission_never_replaces_the_result_of_a_newer_one(raw: redis.Redis) -> None:
    raw.rpush(LONG, message("r", 0), message("r", 1), message("other", 0))

    async def scenario(queues: Queues) -> None:
        older, newer, other = await queues.take(Kind.LONG, 3)
        assert await queues.commit(newer, "r", "s1", {"a": "1"}) == (Outcome.COMMITTED, "")
        raw.delete("inpainting_result:r")  # it was fetched
        assert await queues.commit(older, "r", "s0", {"a": "0"}) == (Outcome.SUPERSEDED, "")
        assert not raw.exists("inpainting_result:r")
        # Its inputs are to be unlinked, and its result by somebody even if this worker dies.
        assert older.payload in raw.lrange(keys.cleanup(ME.worker), 0, -1)
        assert raw.zscore(keys.segments("boot-1"), "s0 r") == 0
        assert await queues.commit(other, "other", "s2", {"a": "1"}) == (Outcome.COMMITTED, "")
        assert not raw.exists(keys.SUBMISSIONS, keys.claims(ME.worker))

    run(raw, scenario)


def test_an_older_submission_that_is_tried_again_is_known_to_come_too_late(
    raw: redis.Redis,
) -> None:
    raw.rpush(LONG, message("r", 0), message("r", 1))

    async def scenario(queues: Queues) -> None:
        older, newer = await queues.take(Kind.LONG, 2)
        await queues.retry(older)
        await queues.commit(newer, "r", "s1", {"a": "1"})
        again = await claim_one(queues)
        assert await queues.enter([again]) == [Standing(1, superseded=True)]
        assert await queues.fail(again, ERROR, 3, ("r", "i")) is Outcome.SUPERSEDED
        assert not raw.exists(keys.DEAD, keys.ATTEMPTS, keys.SUBMISSIONS)

    run(raw, scenario)


def test_two_jobs_in_a_row_are_not_given_up_for_a_fault_of_the_device(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"a", b"b", b"c")
    crashed = JobError("crashed", "every worker died on it")

    async def scenario(queues: Queues) -> None:
        first, second, third = await queues.take(Kind.LONG, 3)
        assert await queues.fail(first, crashed, 3, None, device=True) is Outcome.FAILED
        assert not await queues.is_device_held()
        assert await queues.fail(second, crashed, 3, None, device=True) is Outcome.HELD
        assert await queues.is_device_held()
        assert raw.llen(keys.DEAD) == 1
        # What is refused for itself says nothing of the device.
        assert await queues.fail(third, ERROR, 1, None) is Outcome.FAILED
        assert await queues.commit(second, "r", "s", {"a": "1"}) == (Outcome.COMMITTED, "")
        assert not await queues.is_device_held()

    run(raw, scenario)


def test_a_finished_job_is_delivered_though_the_server_has_lost_its_data(raw: redis.Redis) -> None:
    raw.rpush(LONG, message("r", 0), message("s", 0))

    async def scenario(queues: Queues) -> None:
        first, second = await queues.take(Kind.LONG, 2)
        raw.flushall()
        assert await queues.commit(first, "r", "s1", {"a": "1"}) == (Outcome.COMMITTED, "")
        assert raw.hgetall("inpainting_result:r") == {b"a": b"1"}
        assert raw.lrange(keys.cleanup(ME.worker), 0, -1) == [first.payload]
        assert raw.smembers(keys.workers("boot-1")) == {ME.worker.encode()}, "the list is found"
        # One that the server has kept in its queue is done once.
        raw.rpush(LONG, second.payload)
        assert await queues.commit(second, "s", "s2", {"a": "1"}) == (Outcome.COMMITTED, "")
        assert not raw.exists(LONG)

    run(raw, scenario)


def test_a_result_replaces_one_of_another_shared_memory_which_is_removed_there(
    raw: redis.Redis,
) -> None:
    elsewhere = Identity("host-2-0a0b0c0e", "boot-2", "other", 2, 0)
    raw.rpush(LONG, message("r", 0))

    async def scenario(queues: Queues) -> None:
        async with opened(raw, elsewhere) as other:
            await other.register()
            info = {"inpaint_shm_info": json.dumps({"shm_name": "old"})}
            await other.commit(await claim_one(other), "r", "old", info)
        raw.rpush(LONG, message("r", 1))
        info = {"inpaint_shm_info": json.dumps({"shm_name": "new"})}
        outcome = await queues.commit(await claim_one(queues), "r", "new", info)
        assert outcome == (Outcome.COMMITTED, ""), "the segment is not here"
        assert raw.zscore(keys.segments("boot-2"), "old r") == 0

    run(raw, scenario)


def test_registration_is_a_heartbeat_that_expires_and_a_member_of_the_namespace(
    raw: redis.Redis,
) -> None:
    async def scenario(queues: Queues) -> None:
        await queues.check_server()
        await queues.register()
        assert 0 < raw.pttl(keys.heartbeat(ME.worker)) <= 15_000
        assert json.loads(raw.get(keys.heartbeat(ME.worker)))["namespace"] == "boot-1"
        assert raw.smembers(keys.workers("boot-1")) == {ME.worker.encode()}
        await queues.deregister()
        assert raw.keys() == []

    run(raw, scenario)


def test_a_worker_that_leaves_jobs_behind_stays_known_as_dead(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        await queues.register()
        await claim_one(queues)
        raw.delete(keys.workers("boot-1"))  # an older snapshot of the server does not know it
        await queues.deregister()
        assert not raw.exists(keys.heartbeat(ME.worker))
        assert raw.smembers(keys.workers("boot-1")) == {ME.worker.encode()}

    run(raw, scenario)


def test_at_most_once_takes_jobs_for_good(raw: redis.Redis) -> None:
    raw.rpush(LONG, b"a", b"b", b"c")
    raw.rpush(SHORT, b"x")

    async def scenario(queues: Queues) -> None:
        assert [claim.payload for claim in await queues.wait_for_either(Kind.LONG)] == [b"a"]
        assert [claim.payload for claim in await queues.wait_for_either(Kind.SHORT)] == [b"x"]
        assert [claim.payload for claim in await queues.take(Kind.LONG, 5)] == [b"b", b"c"]
        assert kept(raw) == []
        claim = Claim(Kind.LONG, b"a")
        assert await queues.commit(claim, "r", "s", {"a": "1"}) == (Outcome.COMMITTED, "")
        await queues.release([Claim(Kind.LONG, b"b"), Claim(Kind.LONG, b"c")])
        assert raw.lrange(LONG, 0, -1) == [b"b", b"c"]
        assert await queues.reconcile() == []

    run(raw, scenario, delivery="at_most_once")


@pytest.mark.parametrize(
    ("delivery", "version", "refused"),
    [
        ("at_least_once", "6.0.16", "at_most_once"),
        ("at_least_once", "5.0.7", "6.2"),
        ("at_most_once", "5.0.7", "6.0"),
        ("at_most_once", "6.0.16", None),
        ("at_least_once", "6.2.0", None),
    ],
)
def test_a_server_that_is_too_old_is_refused_with_its_version(
    raw: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    delivery: str,
    version: str,
    refused: str | None,
) -> None:
    async def scenario(queues: Queues) -> None:
        async def info() -> dict[str, object]:
            return {"redis_version": version}

        monkeypatch.setattr(queues._redis, "info", info)
        if refused is None:
            await queues.check_server()
        else:
            with pytest.raises(RedisUnsuitable, match=rf"{version}.*{refused}"):
                await queues.check_server()

    run(raw, scenario, delivery=delivery)
