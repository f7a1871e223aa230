"""What dead workers leave behind is finished by others, and nothing that is somebody's is touched.

Where it matters who does what and when, the pass of a reaper is called by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis

from core import keys
from core.broker.connection import Link
from core.broker.queues import Queues
from core.claims import Claim, Outcome
from core.config import Settings
from core.contract import result_name_start
from core.identity import Identity, current_identity
from core.keys import Kind
from core.pixels import shm
from core.recovery.recovery import CHUNK, Recovery
from harness.jobs import send
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Pipeline
from harness.workers import OWN, SOON, OwnPipeline, StartWorker, segments, worker_id

UIDS = frozenset({os.geteuid()})


def reap(settings: Settings) -> Identity:
    """One pass of a reaper in this namespace."""
    me = current_identity(settings)

    async def one_pass() -> None:
        recovery = Recovery(settings, me, Link(settings))
        await recovery.recover()
        await recovery.close()

    asyncio.run(one_pass())
    return me


def crashed(settings: Settings, raw: redis.Redis, *payloads: bytes, kind: str = "long") -> str:
    """A worker without a heartbeat that has worked on some payloads; its id."""
    identity = current_identity(settings)
    raw.sadd(keys.workers(identity.namespace), identity.worker)
    raw.rpush(keys.processing(identity.worker, Kind(kind)), *payloads)
    for number, payload in enumerate(payloads):
        books = {str(number): keys.sha1(payload), f"{number}:work": keys.sha1(payload)}
        raw.hset(keys.claims(identity.worker), mapping=books)
    return identity.worker


def kept(raw: redis.Redis) -> list[bytes]:
    """All keys but what workers note of each other, which lasts."""
    return sorted(key for key in raw.scan_iter() if key != keys.CREWS.encode())


def write_segment(name: str) -> str:
    shm.write(name, np.zeros(4, np.uint8), 0o600)
    return name


def request(name: str) -> bytes:
    return json.dumps({"request_id": name}).encode()


# -- the steps, one by one ----------------------------------------------------------------------


def test_jobs_of_a_dead_worker_are_back_at_the_head_in_order_with_an_attempt(
    settings: Settings, raw: redis.Redis
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
    settings: Settings, raw: redis.Redis
) -> None:
    worker = crashed(settings, raw, b"read ahead", b"computed", b"computed")
    raw.hdel(keys.claims(worker), "0:work")
    reap(settings)
    assert raw.lrange(LONG, 0, -1) == [b"read ahead", b"computed", b"computed"]
    # Two copies of one message: it has been tried once.
    assert raw.hgetall(keys.ATTEMPTS) == {keys.sha1(b"computed").encode(): b"1"}
    assert not raw.exists(keys.claims(worker), keys.claims(f"{worker}~"))


def test_a_full_server_lets_a_dead_workers_jobs_be_recovered_and_results_expire(
    settings: Settings, raw: redis.Redis
) -> None:
    worker = crashed(settings, raw, request("r"))
    left = write_segment(result_name_start(settings, worker, request("r")) + "0")
    unread = write_segment(f"img_shm_{OWN}unread")
    namespace = current_identity(settings).namespace
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


def test_jobs_of_a_living_worker_are_left_alone(settings: Settings, raw: redis.Redis) -> None:
    worker = crashed(settings, raw, b"a")
    raw.set(keys.heartbeat(worker), "alive")
    reap(settings)
    assert raw.lrange(keys.processing(worker, Kind.LONG), 0, -1) == [b"a"]


def test_jobs_of_another_shared_memory_or_of_other_queues_are_left_alone(
    settings: Settings, raw: redis.Redis
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
    settings: Settings, raw: redis.Redis
) -> None:
    worker = crashed(settings, raw, request("r"))
    own = result_name_start(settings, worker, request("r"))
    uncommitted = write_segment(f"{own}0")
    kept = [
        write_segment(f"{own}1"),  # committed, for an equal message sent before
        write_segment(result_name_start(settings, worker, request("s")) + "2"),  # for another job
        write_segment(result_name_start(settings, "host-9-0123456789ab", request("r")) + "0"),
        write_segment(f"img_shm_{OWN}{'a' * 20}"),
    ]
    namespace = current_identity(settings).namespace
    raw.zadd(keys.segments(namespace), {f"{own}1 r": time.time() + 100})
    reap(settings)
    assert not Path("/dev/shm", uncommitted).exists()
    assert segments() == set(kept)
    shm.unlink_all(kept, UIDS)


def test_a_reaper_that_died_half_way_is_finished_by_the_next(
    settings: Settings, raw: redis.Redis
) -> None:
    worker = crashed(settings, raw, request("r"))
    left = write_segment(result_name_start(settings, worker, request("r")) + "0")
    # The first step has happened, nothing after it.
    namespace = current_identity(settings).namespace
    raw.rename(keys.processing(worker, Kind.LONG), keys.processing(f"{worker}~", Kind.LONG))
    raw.sadd(keys.workers(namespace), f"{worker}~")
    reap(settings)
    assert not Path("/dev/shm", left).exists()
    assert raw.lrange(LONG, 0, -1) == [request("r")]
    barred = keys.segments(namespace).encode()  # from being committed: the worker may yet live
    assert kept(raw) == [barred, keys.SUBMISSIONS.encode(), LONG.encode()]


def test_a_thawed_worker_cannot_commit_what_was_reaped(
    settings: Settings, raw: redis.Redis
) -> None:
    worker = crashed(settings, raw, b"a")
    reap(settings)
    identity = Identity(worker, current_identity(settings).namespace, "host", 1, 0)

    async def commit() -> tuple[Outcome, str]:
        queues = Queues(settings, identity)
        outcome = await queues.commit(Claim(Kind.LONG, b"a"), "r", "s", {"a": "1"})
        await queues.close()
        return outcome

    assert asyncio.run(commit()) == (Outcome.LOST, "")
    assert not raw.exists("inpainting_result:r")


def test_a_thawed_worker_that_is_given_its_job_again_cannot_commit_what_was_removed(
    settings: Settings, raw: redis.Redis
) -> None:
    identity = current_identity(settings)
    start = result_name_start(settings, identity.worker, request("r"))
    raw.rpush(LONG, request("r"))

    async def commit(queues: Queues, claim: Claim, segment: str) -> tuple[Outcome, str]:
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
        assert await commit(queues, frozen, removed) == (Outcome.LOST, "")
        assert not raw.exists("inpainting_result:r")
        assert await commit(queues, again, write_segment(f"{start}1")) == (Outcome.COMMITTED, "")
        await queues.close()

    asyncio.run(main())
    assert segments() == {f"{start}1"}
    shm.unlink(f"{start}1", UIDS)


def test_a_reaper_that_stalled_puts_back_only_jobs_whose_segments_it_has_removed(
    settings: Settings, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = crashed(settings, raw, request("r"))
    left = write_segment(result_name_start(settings, worker, request("s")) + "0")
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
    settings: Settings, raw: redis.Redis
) -> None:
    identity = current_identity(settings)

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
    settings: Settings, raw: redis.Redis
) -> None:
    worker = crashed(settings, raw, request("r"))
    own = result_name_start(settings, worker, request("r"))
    reap(settings)
    raw.set(keys.heartbeat(worker), "alive after all")
    late = write_segment(f"{own}7")
    reap(settings)
    assert segments() == {late}, "a living worker unlinks it itself"
    raw.delete(keys.heartbeat(worker))
    reap(settings)
    assert not segments()


def test_a_result_that_was_taken_over_is_not_taken_for_a_late_one(
    settings: Settings, raw: redis.Redis
) -> None:
    worker = crashed(settings, raw, request("r"))
    own = result_name_start(settings, worker, request("r"))
    reap(settings)
    taken_over = write_segment(f"{own}8")  # it was given the job again, and committed it
    namespace = current_identity(settings).namespace
    raw.zadd(keys.segments(namespace), {f"{taken_over} r": time.time() - 1})
    for _ in range(3):
        reap(settings)
    assert segments() == {taken_over}
    shm.unlink(taken_over, UIDS)


def test_a_claim_that_arrives_after_its_worker_was_struck_off_is_found(
    settings: Settings, raw: redis.Redis
) -> None:
    worker = current_identity(settings).worker
    raw.rpush(keys.processing(worker, Kind.LONG), b"a")
    other = settings.model_copy(update={"lama_inference_long_tasks_queue": "other"})
    foreign = keys.processing(current_identity(other).worker, Kind.LONG)
    raw.rpush(foreign, b"b")
    reap(settings)
    assert raw.lrange(LONG, 0, -1) == [b"a"]
    assert raw.lrange(foreign, 0, -1) == [b"b"]


def test_a_dead_workers_cleanup_is_finished(settings: Settings, raw: redis.Redis) -> None:
    inputs = [write_segment(f"img_shm_{OWN}in{number}") for number in range(3)]
    message = {
        "preprocessed_img_shm_info": {"shm_name": inputs[0]},
        "preprocessed_mask_shm_info": {"shm_name": inputs[1]},
        "original_shm_info": {"shm_name": inputs[2]},
    }
    identity = current_identity(settings)
    raw.sadd(keys.workers(identity.namespace), identity.worker)
    raw.rpush(keys.cleanup(identity.worker), json.dumps(message), b"not json")
    reap(settings)
    assert segments() == {inputs[2]}
    assert kept(raw) == []
    shm.unlink(inputs[2], UIDS)


def test_a_result_that_nobody_fetched_is_removed_when_its_time_is_over(
    settings: Settings, raw: redis.Redis
) -> None:
    unread, fetched, fresh, replaced = (
        write_segment(f"img_shm_{OWN}{name}") for name in ("unread", "fetched", "fresh", "replaced")
    )
    namespace, now = current_identity(settings).namespace, time.time()
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
    settings: Settings, raw: redis.Redis
) -> None:
    old, young, foreign, others = (
        write_segment(f"img_shm_{OWN}{name}") for name in ("old", "young", "foreign", "others")
    )
    namespace, now = current_identity(settings).namespace, int(time.time())

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
    settings: Settings, raw: redis.Redis
) -> None:
    namespace, now = current_identity(settings).namespace, int(time.time())
    kept = [f"written by hand {number}".encode() for number in range(2 * CHUNK)]

    def old(name: str) -> str:
        message = {"preprocessed_img_shm_info": {"shm_name": write_segment(name)}}
        past = now - int(settings.dead_ttl_s) - 1
        about = {"namespace": namespace, "at": past, "queue": LONG}
        return json.dumps({"raw": json.dumps(message), **about})

    async def passes() -> None:
        recovery = Recovery(settings, current_identity(settings), Link(settings))
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


# -- with real workers that are killed ------------------------------------------------------------


def test_jobs_of_a_killed_worker_are_done_by_another(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    requests = [send(pipeline, seed=seed) for seed in range(6)]
    victim = start_worker(STUB_HOLD=make_hold(), INPAINTING_BATCH_SIZE_LONG=2, **SOON)
    wait_until(
        lambda: client.llen(f"inpainting:processing:{worker_id(client, victim)}:long") == 4,
        "a batch is computed and one is claimed ahead",
    )
    victim.kill()
    rescuer = start_worker(**SOON)
    for request_id in requests:
        assert pipeline.fetch(request_id).shape == (60, 90, 3)
    rescuer.wait_for_line("recovered 4 long jobs")
    assert rescuer.stop() == 0
    left = {key.decode().split(":")[1] for key in client.scan_iter("inpainting:*")}
    assert left <= {"segments", "reaper", "crews"}


def test_a_picture_that_kills_workers_is_dead_in_the_end_and_its_batch_mates_are_not(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    mates = [send(pipeline, seed=1), send(pipeline, "short", seed=2)]
    send(pipeline, image_id="kill.jpg", request_id="killer")
    mates += [send(pipeline, seed=3), send(pipeline, "short", seed=4)]
    for _ in range(3):
        assert start_worker(**SOON).wait() == -signal.SIGKILL
    start_worker(**SOON)
    for mate in mates:
        assert pipeline.fetch(mate).shape == (60, 90, 3)
    wait_until(lambda: client.llen(keys.DEAD), "the killer is dead")
    (entry,) = (json.loads(entry) for entry in client.lrange(keys.DEAD, 0, -1))
    assert (entry["reason"], entry["attempts"]) == ("crashed", 3)
    assert client.hget("inpainting_result:killer", "status") == b"failed"
    assert not client.exists(keys.ATTEMPTS)
    pipeline.close()


def test_workers_whose_heartbeats_expired_in_an_outage_are_not_taken_for_dead(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    slow = {"HEARTBEAT_INTERVAL_S": 0.5, "HEARTBEAT_TTL_S": 1, "REAP_INTERVAL_S": 0.2}
    with RedisServer(append_only=True) as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        busy = start_worker(REDIS_URL=server.url, STUB_HOLD=hold, **slow)
        request_id = send(pipeline)
        busy.wait_for_line("taken from")
        other = start_worker(REDIS_URL=server.url, **slow)
        server.stop()
        time.sleep(1.5)  # longer than a heartbeat lives
        server.start()
        for worker in (busy, other):
            worker.wait_for_line("the heartbeat was gone")
        time.sleep(1)  # some passes of both
        hold.unlink()
        assert pipeline.fetch(request_id).shape == (60, 90, 3)
        assert "recovered" not in busy.output + other.output


def test_a_worker_frozen_past_its_heartbeat_does_no_harm_when_it_thaws(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    frozen = start_worker(STUB_HOLD=hold, **SOON)
    request_id = send(pipeline)
    frozen.wait_for_line("taken from")
    frozen.send_signal(signal.SIGSTOP)
    start_worker(**SOON)
    assert pipeline.fetch(request_id).shape == (60, 90, 3)
    hold.unlink()
    frozen.send_signal(signal.SIGCONT)
    frozen.wait_for_line("no longer this worker's")
    frozen.wait_for_line("registered")
    assert not client.exists(f"inpainting_result:{request_id}")
    assert frozen.stop() == 0


def test_a_commit_whose_result_was_replaced_before_its_repetition_leaves_no_entry_and_no_input(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
    settings: Settings,
) -> None:
    hold = make_hold()
    worker = start_worker(STUB_HOLD=hold)
    identity = worker_id(client, worker)
    request_id = send(pipeline)
    worker.wait_for_line("taken from")
    payload = client.lpop(f"inpainting:processing:{identity}:long")
    assert payload is not None
    # As the commit of the worker's first segment would have left it, whose reply was lost, when
    # another message of the same request was done meanwhile, and its result fetched.
    first = f"{result_name_start(settings, identity, payload)}0 {request_id}"
    client.zadd(keys.segments(current_identity(settings).namespace), {first: -time.time() - 60})
    client.rpush(keys.cleanup(identity), payload)
    hold.unlink()
    wait_until(lambda: not client.exists(keys.cleanup(identity)), "the entry is dropped")
    assert segments() == set()  # the result, and the message's own inputs
    assert not client.exists(f"inpainting_result:{request_id}")
