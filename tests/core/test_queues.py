"""The Lua scripts on a real server: a job is in one place at every moment.

Everything here runs on the newest packaged Redis and on 6.2, the oldest supported one.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from core import keys
from core.broker.queues import Queues
from core.claims import Claim, Ending, Standing
from core.config import Settings
from core.errors import RedisUnsuitable
from core.keys import Kind
from harness.redis_server import RedisClient
from harness.wire import LONG, SHORT
from tests.core.queueing import ME, PROCESSING, claim_one, kept, run


def test_a_claim_moves_jobs_from_the_head_in_order_byte_for_byte(raw: RedisClient) -> None:
    payloads = [b"\x00\xff", "ü".encode(), b"c"]
    raw.rpush(LONG, *payloads)

    async def scenario(queues: Queues) -> None:
        claims = await queues.take(Kind.LONG, 2)
        assert [claim.payload for claim in claims] == payloads[:2]
        assert raw.lrange(PROCESSING, 0, -1) == payloads[:2]
        assert raw.lrange(LONG, 0, -1) == payloads[2:]
        assert await queues.take(Kind.SHORT, 2) == []

    run(raw, scenario)


def test_a_job_with_an_attempt_is_claimed_alone(raw: RedisClient) -> None:
    raw.rpush(LONG, b"tried", b"a", b"b", b"tried too", b"c")
    raw.hset(keys.ATTEMPTS, mapping={keys.sha1(one): 1 for one in (b"tried", b"tried too")})

    async def scenario(queues: Queues) -> None:
        for batch in ([b"tried"], [b"a", b"b"], [b"tried too"], [b"c"]):
            claims = await queues.take(Kind.LONG, 4)
            assert [claim.payload for claim in claims] == batch

    run(raw, scenario)


def test_jobs_join_neither_one_that_has_an_attempt_nor_the_other_way_round(
    raw: RedisClient,
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


def test_jobs_of_either_kind_are_claimed_in_one_call_those_of_the_first_kind_first(
    raw: RedisClient,
) -> None:
    raw.rpush(LONG, b"a", b"b", b"c")
    raw.rpush(SHORT, b"d", b"e", b"f")
    counts = {Kind.LONG: 2, Kind.SHORT: 1}

    async def scenario(queues: Queues) -> None:
        async def take(first: Kind) -> list[tuple[Kind, bytes]]:
            claims = await queues.take_either(first, counts)
            assert all(standing == Standing(0) for standing in await queues.enter(claims))
            return [(claim.kind, claim.payload) for claim in claims]

        assert await take(Kind.LONG) == [(Kind.LONG, b"a"), (Kind.LONG, b"b")]
        assert await take(Kind.SHORT) == [(Kind.SHORT, b"d")]
        assert await take(Kind.LONG) == [(Kind.LONG, b"c")]
        assert await take(Kind.LONG) == [(Kind.SHORT, b"e")], "there is no long one left"
        raw.set(LONG, "not a list")
        assert await take(Kind.LONG) == [(Kind.SHORT, b"f")]
        assert await take(Kind.SHORT) == []
        assert raw.lrange(PROCESSING, 0, -1) == [b"a", b"b", b"c"]

    run(raw, scenario)


def test_a_queue_that_is_no_list_is_named_once_and_does_not_hold_up_the_other(
    raw: RedisClient, caplog: pytest.LogCaptureFixture
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
        while not (claims := await queues.wait_for_either(Kind.SHORT)):
            pass  # the wait for what was no list has ended
        assert claims == [Claim(Kind.LONG, b"job")]

    run(raw, scenario)
    (complaint,) = [record.getMessage() for record in caplog.records]
    assert f"'{LONG}' in redis is not a list" in complaint


def test_waiting_ends_as_soon_as_a_job_arrives_on_either_queue(raw: RedisClient) -> None:
    async def scenario(queues: Queues) -> None:
        for queue, kind in ((LONG, Kind.LONG), (SHORT, Kind.SHORT)):
            waiting = asyncio.ensure_future(queues.wait_for_either(Kind.LONG))
            while raw.info("clients")["blocked_clients"] < 2:
                await asyncio.sleep(0.001)
            raw.rpush(queue, b"job")
            async with asyncio.timeout(0.5):  # a quarter of what the wait would last by itself
                assert await waiting == [Claim(kind, b"job")]
            assert raw.info("clients")["blocked_clients"] <= 1, "the other wait is used again"

    run(raw, scenario)


def test_a_job_that_was_waited_for_is_recorded_in_the_step_that_claims_it(raw: RedisClient) -> None:
    async def scenario(queues: Queues) -> None:
        waiting = asyncio.create_task(queues.wait_for_either(Kind.LONG))
        while raw.info("clients")["blocked_clients"] < 2:
            await asyncio.sleep(0.005)
        raw.rpush(LONG, b"a", b"b")
        claims = await waiting
        assert [(claim.kind, claim.payload) for claim in claims] == [(Kind.LONG, b"a")]
        assert raw.hgetall(keys.claims(ME.worker)).keys() == {b"1", b"1:work"}
        assert raw.lrange(PROCESSING, 0, -1) == [b"a"]
        assert raw.lrange(LONG, 0, -1) == [b"b"]

    run(raw, scenario)


async def begin_to_wait(queues: Queues, raw: RedisClient) -> asyncio.Future[list[Claim]]:
    """A wait that is blocked on both queues; one that an earlier wait has left may end at once."""
    while True:
        waiting = asyncio.ensure_future(queues.wait_for_either(Kind.LONG))
        while not waiting.done():
            if raw.info("clients")["blocked_clients"] == 2:
                return waiting
            await asyncio.sleep(0)
        assert await waiting == []


def test_a_job_that_came_and_went_while_a_wait_went_on_is_no_claim(raw: RedisClient) -> None:
    async def scenario(queues: Queues) -> None:
        waiting = await begin_to_wait(queues, raw)
        raw.rpush(LONG, b"first")
        assert [claim.payload for claim in await waiting] == [b"first"]
        raw.rpush(SHORT, b"second")
        assert [claim.payload for claim in await queues.take(Kind.SHORT, 1)] == [b"second"]
        while raw.info("clients")["blocked_clients"]:
            await asyncio.sleep(0.001)
        assert await queues.wait_for_either(Kind.LONG) == []
        waiting = await begin_to_wait(queues, raw)
        raw.rpush(SHORT, b"third")
        assert [claim.payload for claim in await waiting] == [b"third"]

    run(raw, scenario)


def test_a_wait_can_be_ended_without_losing_a_job(raw: RedisClient) -> None:
    async def scenario(queues: Queues) -> None:
        for number in range(100):
            waiting = await begin_to_wait(queues, raw)
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


def test_a_user_who_may_not_unblock_still_gets_the_jobs(raw: RedisClient) -> None:
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


def test_jobs_claimed_without_a_reply_are_found_and_those_in_hand_are_not(raw: RedisClient) -> None:
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


def test_a_message_above_the_limit_is_refused_where_it_is_and_never_read(raw: RedisClient) -> None:
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


def test_registration_is_a_heartbeat_that_expires_and_a_member_of_the_namespace(
    raw: RedisClient,
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


def test_a_worker_that_leaves_jobs_behind_stays_known_as_dead(raw: RedisClient) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        await queues.register()
        await claim_one(queues)
        raw.delete(keys.workers("boot-1"))  # an older snapshot of the server does not know it
        await queues.deregister()
        assert not raw.exists(keys.heartbeat(ME.worker))
        assert raw.smembers(keys.workers("boot-1")) == {ME.worker.encode()}

    run(raw, scenario)


def test_at_most_once_takes_jobs_for_good(raw: RedisClient) -> None:
    raw.rpush(LONG, b"a", b"b", b"c")
    raw.rpush(SHORT, b"x")

    async def scenario(queues: Queues) -> None:
        assert [claim.payload for claim in await queues.wait_for_either(Kind.LONG)] == [b"a"]
        assert [claim.payload for claim in await queues.wait_for_either(Kind.SHORT)] == [b"x"]
        assert [claim.payload for claim in await queues.take(Kind.LONG, 5)] == [b"b", b"c"]
        assert kept(raw) == []
        claim = Claim(Kind.LONG, b"a")
        assert await queues.commit(claim, "r", "s", {"a": "1"}) == (Ending.COMMITTED, "")
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
    raw: RedisClient,
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
