"""What dead workers leave behind is finished by others, and nothing that is somebody's is touched.

Where it matters who does what and when, the pass of a reaper is called by hand.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from core import keys
from core.broker.queues import Queues
from core.claims import Claim, Ending
from core.config import Settings
from core.contract import result_name_start
from core.identity import Identity, current_identity, current_namespace
from core.keys import Kind
from core.pixels import shm
from harness.redis_server import RedisClient
from harness.wire import LONG, SHORT
from harness.workers import OWN, segments
from tests.core.reaping import UIDS, crashed, kept, reap, request, write_segment


def name_start(settings: Settings, worker: str, payload: bytes) -> str:
    return result_name_start(worker, payload, prefix=settings.shm_name_prefix)


def test_jobs_of_a_dead_worker_are_back_at_the_head_in_order_with_an_attempt(
    settings: Settings, raw: RedisClient
) -> None:
    raw.rpush(LONG, b"later")
    crashed(settings, raw, b"a", b"b")
    crashed(settings, raw, b"\xff", kind="short")
    reap(settings)
    assert raw.lrange(LONG, 0, -1) == [b"a", b"b", b"later"]
    assert raw.lrange(SHORT, 0, -1) == [b"\xff"]
    assert raw.hgetall(keys.ATTEMPTS) == {
        keys.sha1(payload).encode(): b"1" for payload in (b"a", b"b", b"\xff")
    }
    assert kept(raw) == sorted([LONG.encode(), SHORT.encode(), b"inpainting:attempts"])


def test_only_jobs_that_a_dead_worker_was_working_on_have_an_attempt(
    settings: Settings, raw: RedisClient
) -> None:
    worker = crashed(settings, raw, b"read ahead", b"computed", b"computed")
    raw.hdel(keys.claims(worker), "0:work")
    reap(settings)
    assert raw.lrange(LONG, 0, -1) == [b"read ahead", b"computed", b"computed"]
    # Two copies of one message: it has been tried once.
    assert raw.hgetall(keys.ATTEMPTS) == {keys.sha1(b"computed").encode(): b"1"}
    assert not raw.exists(keys.claims(worker), keys.claims(f"{worker}~"))


def test_a_full_server_lets_a_dead_workers_jobs_be_recovered_and_results_expire(
    settings: Settings, raw: RedisClient
) -> None:
    worker = crashed(settings, raw, request("r"))
    left = write_segment(name_start(settings, worker, request("r")) + "0")
    unread = write_segment(f"img_shm_{OWN}unread")
    namespace = current_namespace()
    raw.hset("inpainting_result:u", "inpaint_shm_info", json.dumps({"shm_name": unread}))
    raw.zadd(keys.segments(namespace), {f"{unread} u": 1})
    raw.config_set("maxmemory", 1)
    try:
        reap(settings)
    finally:
        raw.config_set("maxmemory", 0)
    assert raw.lrange(LONG, 0, -1) == [request("r")]
    assert not raw.exists("inpainting_result:u")
    assert left not in segments()
    assert unread not in segments()


def test_jobs_of_a_living_worker_are_left_alone(settings: Settings, raw: RedisClient) -> None:
    worker = crashed(settings, raw, b"a")
    raw.set(keys.heartbeat(worker), "alive")
    reap(settings)
    assert raw.lrange(keys.processing(worker, Kind.LONG), 0, -1) == [b"a"]


def test_jobs_of_another_shared_memory_or_of_other_queues_are_left_alone(
    settings: Settings, raw: RedisClient
) -> None:
    other_queues = settings.model_copy(update={"lama_inference_long_tasks_queue": "other"})
    worker = crashed(other_queues, raw, b"a")
    raw.sadd(keys.workers("elsewhere"), "host-1-" + "0" * 12)
    raw.rpush(keys.processing("host-1-" + "0" * 12, Kind.LONG), b"b")
    before = {key: raw.dump(key) for key in kept(raw)}
    reap(settings)
    assert {key: raw.dump(key) for key in kept(raw)} == before
    reap(other_queues)
    assert raw.lrange("other", 0, -1) == [b"a"]
    assert not raw.exists(keys.processing(worker, Kind.LONG))


def test_uncommitted_segments_are_unlinked_and_no_others(
    settings: Settings, raw: RedisClient
) -> None:
    worker = crashed(settings, raw, request("r"))
    own = name_start(settings, worker, request("r"))
    uncommitted = write_segment(f"{own}0")
    kept = [
        write_segment(f"{own}1"),  # committed, for an equal message sent before
        write_segment(name_start(settings, worker, request("s")) + "2"),  # for another job
        write_segment(name_start(settings, "host-9-0123456789ab", request("r")) + "0"),
        write_segment(f"img_shm_{OWN}{'a' * 20}"),
    ]
    namespace = current_namespace()
    raw.zadd(keys.segments(namespace), {f"{own}1 r": time.time() + 100})
    reap(settings)
    assert not Path("/dev/shm", uncommitted).exists()
    assert segments() == set(kept)
    shm.unlink_all(kept, UIDS)


def test_a_reaper_that_died_half_way_is_finished_by_the_next(
    settings: Settings, raw: RedisClient
) -> None:
    worker = crashed(settings, raw, request("r"))
    left = write_segment(name_start(settings, worker, request("r")) + "0")
    # The first step has happened, nothing after it.
    namespace = current_namespace()
    raw.rename(keys.processing(worker, Kind.LONG), keys.processing(f"{worker}~", Kind.LONG))
    raw.sadd(keys.workers(namespace), f"{worker}~")
    reap(settings)
    assert not Path("/dev/shm", left).exists()
    assert raw.lrange(LONG, 0, -1) == [request("r")]
    barred = keys.segments(namespace).encode()  # from being committed: the worker may yet live
    assert kept(raw) == [barred, keys.SUBMISSIONS.encode(), LONG.encode()]


def test_a_thawed_worker_cannot_commit_what_was_reaped(
    settings: Settings, raw: RedisClient
) -> None:
    worker = crashed(settings, raw, b"a")
    reap(settings)
    identity = Identity(worker, current_namespace(), "host", 1, 0)

    async def commit() -> tuple[Ending, str]:
        queues = Queues(settings, identity)
        outcome = await queues.commit(Claim(Kind.LONG, b"a"), "r", "s", {"a": "1"})
        await queues.close()
        return outcome

    assert asyncio.run(commit()) == (Ending.LOST, "")
    assert not raw.exists("inpainting_result:r")


def test_a_thawed_worker_that_is_given_its_job_again_cannot_commit_what_was_removed(
    settings: Settings, raw: RedisClient
) -> None:
    identity = current_identity(settings.queues)
    start = name_start(settings, identity.worker, request("r"))
    raw.rpush(LONG, request("r"))

    async def commit(queues: Queues, claim: Claim, segment: str) -> tuple[Ending, str]:
        info = json.dumps({"shm_name": segment})
        return await queues.commit(claim, "r", segment, {"inpaint_shm_info": info})

    async def main() -> None:
        queues = Queues(settings, identity)
        await queues.register()
        (frozen,) = await queues.take(Kind.LONG, 1)
        removed = write_segment(f"{start}0")
        raw.delete(keys.heartbeat(identity.worker))
        await asyncio.to_thread(reap, settings)
        assert not segments()
        (again,) = await queues.take(Kind.LONG, 1)
        assert await commit(queues, frozen, removed) == (Ending.LOST, "")
        assert not raw.exists("inpainting_result:r")
        assert await commit(queues, again, write_segment(f"{start}1")) == (Ending.COMMITTED, "")
        await queues.close()

    asyncio.run(main())
    assert segments() == {f"{start}1"}
    shm.unlink(f"{start}1", UIDS)


def test_a_reaper_that_stalled_puts_back_only_jobs_whose_segments_it_has_removed(
    settings: Settings, raw: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = crashed(settings, raw, request("r"))
    left = write_segment(name_start(settings, worker, request("s")) + "0")
    names = shm.names

    def stall() -> list[str]:
        """Meanwhile the worker, which is alive, gets another job and loses that too."""
        monkeypatch.setattr(shm, "names", names)
        found = names()
        raw.rpush(keys.processing(f"{worker}~", Kind.LONG), request("s"))
        return found

    monkeypatch.setattr(shm, "names", stall)
    reap(settings)
    assert raw.lrange(LONG, 0, -1) == [request("r")]
    reap(settings)
    assert raw.lrange(LONG, 0, -1) == [request("s"), request("r")]
    assert not Path("/dev/shm", left).exists()


def test_what_a_worker_claims_after_it_was_struck_off_is_found_when_it_dies(
    settings: Settings, raw: RedisClient
) -> None:
    identity = current_identity(settings.queues)

    async def claim() -> None:
        queues = Queues(settings, identity)
        await queues.register()
        raw.delete(keys.heartbeat(identity.worker))  # it was frozen, and has not noticed yet
        await asyncio.to_thread(reap, settings)
        assert not raw.exists(keys.workers(identity.namespace))
        raw.rpush(LONG, b"a")
        await queues.enter(await queues.take(Kind.LONG, 1))
        await queues.close()

    asyncio.run(claim())
    reap(settings)
    assert raw.lrange(LONG, 0, -1) == [b"a"]


def test_a_result_that_a_slow_worker_writes_for_a_job_it_has_lost_is_removed_when_it_dies(
    settings: Settings, raw: RedisClient
) -> None:
    worker = crashed(settings, raw, request("r"))
    own = name_start(settings, worker, request("r"))
    reap(settings)
    raw.set(keys.heartbeat(worker), "alive after all")
    late = write_segment(f"{own}7")
    reap(settings)
    assert segments() == {late}, "a living worker unlinks it itself"
    raw.delete(keys.heartbeat(worker))
    reap(settings)
    assert not segments()


@pytest.mark.parametrize("expires_in_s", [-1, 100.5], ids=["its time is over", "it was cleaned up"])
def test_a_result_that_was_taken_over_is_not_taken_for_a_late_one(
    settings: Settings, raw: RedisClient, expires_in_s: float
) -> None:
    worker = crashed(settings, raw, request("r"))
    own = name_start(settings, worker, request("r"))
    reap(settings)
    taken_over = write_segment(f"{own}8")  # it was given the job again, and committed it
    namespace = current_namespace()
    raw.zadd(keys.segments(namespace), {f"{taken_over} r": int(time.time()) + expires_in_s})
    for _ in range(3):
        reap(settings)
    assert segments() == {taken_over}
    shm.unlink(taken_over, UIDS)


def test_a_claim_that_arrives_after_its_worker_was_struck_off_is_found(
    settings: Settings, raw: RedisClient
) -> None:
    worker = current_identity(settings.queues).worker
    raw.rpush(keys.processing(worker, Kind.LONG), b"a")
    other = settings.model_copy(update={"lama_inference_long_tasks_queue": "other"})
    foreign = keys.processing(current_identity(other.queues).worker, Kind.LONG)
    raw.rpush(foreign, b"b")
    reap(settings)
    assert raw.lrange(LONG, 0, -1) == [b"a"]
    assert raw.lrange(foreign, 0, -1) == [b"b"]


def test_a_dead_workers_cleanup_is_finished(settings: Settings, raw: RedisClient) -> None:
    inputs = [write_segment(f"img_shm_{OWN}in{number}") for number in range(3)]
    message = {
        "preprocessed_img_shm_info": {"shm_name": inputs[0]},
        "preprocessed_mask_shm_info": {"shm_name": inputs[1]},
        "original_shm_info": {"shm_name": inputs[2]},
    }
    identity = current_identity(settings.queues)
    raw.sadd(keys.workers(identity.namespace), identity.worker)
    raw.rpush(keys.cleanup(identity.worker), json.dumps(message), b"not json")
    reap(settings)
    assert segments() == {inputs[2]}
    assert kept(raw) == []
    shm.unlink(inputs[2], UIDS)
