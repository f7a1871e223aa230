"""The scripts that end a claim with a result: it is published once, and never by an older job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core import keys
from core.broker import finishing
from core.broker.queues import Queues
from core.claims import Claim, Ending, Standing
from core.identity import Identity
from core.keys import Kind
from harness.redis_server import RedisClient
from harness.wire import LONG
from tests.core.queueing import ERROR, ME, PROCESSING, claim_one, kept, opened, run


def test_a_commit_publishes_the_result_and_leaves_the_inputs_for_cleanup(raw: RedisClient) -> None:
    raw.rpush(LONG, b"job")
    raw.hset(keys.ATTEMPTS, Claim(Kind.LONG, b"job").sha1, 2)
    raw.hset("inpainting_result:r", mapping={"status": "failed", "error": "earlier"})
    raw.expire("inpainting_result:r", 100)

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.enter([claim]) == [Standing(2)]
        fields = {"image_id": "a.jpg", "inpaint_shm_info": '{"shm_name": "s1"}'}
        assert await queues.commit(claim, "r", "s1", fields) == (Ending.COMMITTED, "")
        assert raw.hgetall("inpainting_result:r") == {
            name.encode(): value.encode() for name, value in fields.items()
        }
        assert raw.ttl("inpainting_result:r") == -1
        assert raw.llen(PROCESSING) == 0
        assert raw.lrange(keys.cleanup(ME.worker), 0, -1) == [b"job"]
        assert raw.zrange(keys.segments("boot-1"), 0, -1) == [b"s1 r"]
        assert not raw.exists(keys.ATTEMPTS)
        await queues.drop_cleanup_entry(claim)
        assert not raw.exists(keys.cleanup(ME.worker))

    run(raw, scenario)


def test_a_commit_is_one_hset(raw: RedisClient) -> None:
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


def test_a_commit_whose_reply_was_lost_is_recognised_when_it_is_repeated(raw: RedisClient) -> None:
    raw.rpush(LONG, b"job", b"job")

    async def scenario(queues: Queues) -> None:
        first, second = await queues.take(Kind.LONG, 2)
        assert await queues.commit(first, "r", "s1", {"inpaint_shm_info": "{}"}) == (
            Ending.COMMITTED,
            "",
        )
        raw.delete("inpainting_result:r")  # the receiver has fetched it meanwhile
        assert await queues.commit(first, "r", "s1", {"inpaint_shm_info": "{}"}) == (
            Ending.COMMITTED,
            "",
        )
        assert not raw.exists("inpainting_result:r")
        # The same message was sent twice: the second one is still to be done.
        assert raw.lrange(PROCESSING, 0, -1) == [second.payload]

    run(raw, scenario)


def test_a_job_that_was_taken_away_is_not_committed_failed_or_retried(raw: RedisClient) -> None:
    raw.rpush(LONG, b"job")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        raw.lmove(PROCESSING, LONG, "LEFT", "LEFT")
        assert (await queues.commit(claim, "r", "s", {"a": "1"}))[0] is Ending.LOST
        assert await queues.fail(claim, ERROR, 1, ("r", "i")) is Ending.LOST
        assert await queues.retry(claim) is Ending.LOST
        await queues.release([claim])
        assert kept(raw) == [LONG.encode()]
        assert raw.llen(LONG) == 1

    run(raw, scenario)


def test_a_newer_result_replaces_the_older_one_and_names_its_segment(raw: RedisClient) -> None:
    raw.rpush(LONG, b"first", b"second", b"first")

    async def scenario(queues: Queues) -> None:
        first, second, _ = await queues.take(Kind.LONG, 3)
        info = {"inpaint_shm_info": json.dumps({"shm_name": "s1"}), "only_in_first": "x"}
        await queues.commit(first, "r", "s1", info)
        info = {"inpaint_shm_info": json.dumps({"shm_name": "s2"})}
        assert await queues.commit(second, "r", "s2", info) == (Ending.COMMITTED, "s1")
        assert list(raw.hgetall("inpainting_result:r")) == [b"inpaint_shm_info"]
        # Marked as nobody's, so that it is removed even if this worker dies now.
        assert raw.zscore(keys.segments("boot-1"), "s1 r") == 0
        await queues.forget_replaced("r", "s1")
        assert raw.zrangebyscore(keys.segments("boot-1"), 0, "+inf") == [b"s2 r"]
        # Were it the reply to the first commit that was lost, this would be its repetition.
        assert await queues.commit(first, "r", "s1", info) == (Ending.COMMITTED, "s1")
        # Others have unlinked its inputs, as after a worker that is taken for dead.
        await queues.drop_cleanup_entry(first)
        assert await queues.commit(first, "r", "s1", info) == (Ending.LOST, "")
        assert json.loads(raw.hget("inpainting_result:r", "inpaint_shm_info"))["shm_name"] == "s2"

    run(raw, scenario)


@pytest.mark.parametrize("info", ["", "[]", "null", '{"shm_name": 7}', '{"shm_name": "foreign"}'])
def test_a_segment_that_no_worker_of_this_namespace_wrote_is_never_named_as_replaced(
    raw: RedisClient, info: str
) -> None:
    raw.rpush(LONG, b"job")
    raw.hset("inpainting_result:r", "inpaint_shm_info", info)

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.commit(claim, "r", "s", {"a": "1"}) == (Ending.COMMITTED, "")

    run(raw, scenario)


def test_a_result_key_of_another_type_does_not_stop_a_commit(raw: RedisClient) -> None:
    raw.rpush(LONG, b"job")
    raw.set("inpainting_result:r", "not a hash")

    async def scenario(queues: Queues) -> None:
        claim = await claim_one(queues)
        assert await queues.commit(claim, "r", "s", {"a": "1"}) == (Ending.COMMITTED, "")
        assert raw.hgetall("inpainting_result:r") == {b"a": b"1"}

    run(raw, scenario)


def test_a_call_that_the_network_held_back_until_all_is_forgotten_publishes_nothing_again(
    raw: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "COMMAND_TIMEOUT_S", 0.0)
    sent: list[tuple[Any, ...]] = []

    async def scenario(queues: Queues) -> None:
        send = queues._pipelined

        async def noted(*command: Any) -> Any:
            sent.append(command)
            return await send(*command)

        monkeypatch.setattr(queues, "_pipelined", noted)
        raw.rpush(LONG, message("r", 0))
        claim = await claim_one(queues)
        assert await queues.commit(claim, "r", "s", {"a": "1"}) == (Ending.COMMITTED, "")
        raw.delete("inpainting_result:r", keys.cleanup(ME.worker))  # fetched, and cleaned up
        raw.zrem(keys.segments("boot-1"), "s r")
        (late,) = [command for command in sent if command[0] == "EVALSHA"][-1:]
        reply = raw.execute_command(*late)
        assert reply == [b"lost", b""]
        assert not raw.exists("inpainting_result:r", keys.cleanup(ME.worker))

    run(raw, scenario)


def message(request_id: str, edition: int) -> bytes:
    return json.dumps({"request_id": request_id, "edition": edition}).encode()


def test_an_older_submission_never_replaces_the_result_of_a_newer_one(raw: RedisClient) -> None:
    raw.rpush(LONG, message("r", 0), message("r", 1), message("other", 0))

    async def scenario(queues: Queues) -> None:
        older, newer, other = await queues.take(Kind.LONG, 3)
        assert await queues.commit(newer, "r", "s1", {"a": "1"}) == (Ending.COMMITTED, "")
        raw.delete("inpainting_result:r")  # it was fetched
        assert await queues.commit(older, "r", "s0", {"a": "0"}) == (Ending.SUPERSEDED, "")
        assert not raw.exists("inpainting_result:r")
        # Its inputs are to be unlinked, and its result by somebody even if this worker dies.
        assert older.payload in raw.lrange(keys.cleanup(ME.worker), 0, -1)
        assert raw.zscore(keys.segments("boot-1"), "s0 r") == 0
        assert await queues.commit(other, "other", "s2", {"a": "1"}) == (Ending.COMMITTED, "")
        assert not raw.exists(keys.SUBMISSIONS, keys.claims(ME.worker))

    run(raw, scenario)


def test_an_older_submission_that_is_tried_again_is_known_to_come_too_late(
    raw: RedisClient,
) -> None:
    raw.rpush(LONG, message("r", 0), message("r", 1))

    async def scenario(queues: Queues) -> None:
        older, newer = await queues.take(Kind.LONG, 2)
        await queues.retry(older)
        await queues.commit(newer, "r", "s1", {"a": "1"})
        again = await claim_one(queues)
        assert await queues.enter([again]) == [Standing(1, superseded=True)]
        assert await queues.fail(again, ERROR, 3, ("r", "i")) is Ending.SUPERSEDED
        assert not raw.exists(keys.DEAD, keys.ATTEMPTS, keys.SUBMISSIONS)

    run(raw, scenario)


def test_a_finished_job_is_delivered_though_the_server_has_lost_its_data(raw: RedisClient) -> None:
    raw.rpush(LONG, message("r", 0), message("s", 0))

    async def scenario(queues: Queues) -> None:
        first, second = await queues.take(Kind.LONG, 2)
        raw.flushall()
        assert await queues.commit(first, "r", "s1", {"a": "1"}) == (Ending.COMMITTED, "")
        assert raw.hgetall("inpainting_result:r") == {b"a": b"1"}
        assert raw.lrange(keys.cleanup(ME.worker), 0, -1) == [first.payload]
        assert raw.smembers(keys.workers("boot-1")) == {ME.worker.encode()}, "the list is found"
        # One that the server has kept in its queue is done once.
        raw.rpush(LONG, second.payload)
        assert await queues.commit(second, "s", "s2", {"a": "1"}) == (Ending.COMMITTED, "")
        assert not raw.exists(LONG)

    run(raw, scenario)


def test_a_result_replaces_one_of_another_shared_memory_which_is_removed_there(
    raw: RedisClient,
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
        assert outcome == (Ending.COMMITTED, ""), "the segment is not here"
        assert raw.zscore(keys.segments("boot-2"), "old r") == 0

    run(raw, scenario)
