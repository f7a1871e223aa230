"""Results that nobody fetched and dead jobs are removed when their time is over."""

from __future__ import annotations

import asyncio
import json
import time

from core import keys
from core.broker.connection import Link
from core.config import Settings
from core.identity import current_identity, current_namespace
from core.pixels import shm
from core.recovery.recovery import CHUNK, Recovery
from harness.redis_server import RedisClient
from harness.wire import LONG
from harness.workers import OWN, segments
from tests.core.reaping import UIDS, reap, write_segment


def test_a_result_that_nobody_fetched_is_removed_when_its_time_is_over(
    settings: Settings, raw: RedisClient
) -> None:
    unread, fetched, fresh, replaced = (
        write_segment(f"img_shm_{OWN}{name}") for name in ("unread", "fetched", "fresh", "replaced")
    )
    namespace, now = current_namespace(), time.time()
    raw.hset("inpainting_result:a b", "inpaint_shm_info", json.dumps({"shm_name": unread}))
    raw.hset("inpainting_result:c", "inpaint_shm_info", json.dumps({"shm_name": fresh}))
    raw.zadd(
        keys.segments(namespace),
        {
            f"{unread} a b": now - 1,
            f"{fetched} b": now - 1,
            f"{fresh} c": now + 100,
            f"{replaced} c": 0,
        },
    )
    reap(settings)
    assert segments() == {fetched, fresh}
    assert not raw.exists("inpainting_result:a b")
    assert raw.exists("inpainting_result:c")
    left = raw.zrange(keys.segments(namespace), 0, -1, withscores=True)
    assert {member.decode() for member, score in left if score >= 0} == {f"{fresh} c"}
    # The segments that were removed cannot be committed for a while; after that nothing is left.
    assert {member.decode() for member, score in left if score < 0} == {
        f"{unread} a b",
        f"{replaced} c",
    }
    raw.zadd(keys.segments(namespace), {f"{unread} a b": 1 - now, f"{replaced} c": 1 - now})
    reap(settings)
    assert raw.zrange(keys.segments(namespace), 0, -1) == [f"{fresh} c".encode()]
    shm.unlink_all((fetched, fresh), UIDS)


def test_inputs_of_a_dead_job_are_removed_when_its_time_is_over(
    settings: Settings, raw: RedisClient
) -> None:
    old, young, foreign, others = (
        write_segment(f"img_shm_{OWN}{name}") for name in ("old", "young", "foreign", "others")
    )
    namespace, now = current_namespace(), int(time.time())

    def entry(name: str, namespace: str, at: int, queue: str = LONG) -> str:
        message = {"preprocessed_img_shm_info": {"shm_name": name}}
        about = {"namespace": namespace, "at": at, "queue": queue}
        return json.dumps({"raw": json.dumps(message), **about})

    past = now - int(settings.dead_ttl_s) - 1
    kept = [entry(young, namespace, now), entry(foreign, "elsewhere", past), "written by hand"]
    # Another pipeline of this host has times of its own.
    kept += [entry(others, namespace, past, "another:queue")]
    kept += ["[" * 100_000, json.dumps({"raw": "x", "namespace": namespace})]
    raw.rpush(keys.DEAD, *kept, entry(old, namespace, past))
    reap(settings)
    assert segments() == {young, foreign, others}
    assert raw.lrange(keys.DEAD, 0, -1) == [one.encode() for one in kept]
    shm.unlink_all((young, foreign, others), UIDS)


def test_a_dead_job_whose_time_is_over_is_found_behind_many_that_are_kept(
    settings: Settings, raw: RedisClient
) -> None:
    namespace, now = current_namespace(), int(time.time())
    kept = [f"written by hand {number}".encode() for number in range(2 * CHUNK)]

    def old(name: str) -> str:
        message = {"preprocessed_img_shm_info": {"shm_name": write_segment(name)}}
        past = now - int(settings.dead_ttl_s) - 1
        about = {"namespace": namespace, "at": past, "queue": LONG}
        return json.dumps({"raw": json.dumps(message), **about})

    async def passes() -> None:
        recovery = Recovery(settings, current_identity(settings.queues), Link(settings.redis_url))
        for _ in range(3):
            await recovery.recover()
        assert raw.lrange(keys.DEAD, 0, -1) == kept
        # And it begins again at the head.
        raw.lpush(keys.DEAD, old(f"img_shm_{OWN}head"))
        for _ in range(3):
            await recovery.recover()
        await recovery.close()

    raw.rpush(keys.DEAD, *kept, old(f"img_shm_{OWN}tail"))
    asyncio.run(passes())
    assert raw.lrange(keys.DEAD, 0, -1) == kept
    assert segments() == set()
