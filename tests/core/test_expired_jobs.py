"""Jobs with `expires_at`: what is not begun in time is not computed, and its request is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import keys
from core.broker.queues import Queues
from core.claims import Claim, Ending
from core.config import Settings
from core.contract import expiry, parse_job
from core.errors import BadMessage, Expired, TransientFailure
from core.keys import Kind
from core.recovery.visibility import MOST_MISSES, ShmVisibility
from harness.jobs import hide, make_message, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline, encode
from harness.workers import SOON, StartWorker, segments
from tests.core.queueing import claim_one, run
from tests.core.support import leave_behind, wait_until_idle


def server_time(client: RedisClient) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + microseconds / 1e6


def visibility_of(server: RedisServer) -> ShmVisibility:
    """What a worker knows at its start; it cannot wait."""
    settings = Settings(_env_file=None, redis_url=server.url)
    unused: Any = None
    return ShmVisibility(unused, unused, settings.wire_format, settings.uids)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("kind", ["long", "short"])
def test_an_expired_job_is_not_computed_its_inputs_go_and_its_request_is_told(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, delivery: str, kind: Any
) -> None:
    worker = start_worker(DELIVERY=delivery)
    late = send(pipeline, kind, expires_at=server_time(client) - 5, image_id="a.jpg")
    told = pipeline.result(late)
    assert told["error"].startswith("its expires_at was 5.")
    assert {name: told[name] for name in ("status", "reason", "image_id")} == {
        "status": "failed",
        "reason": "expired",
        "image_id": "a.jpg",
    }
    wait_until(lambda: not segments(), "the inputs are unlinked")
    assert not client.exists(keys.DEAD, keys.ATTEMPTS, keys.SUBMISSIONS)
    in_time = send(pipeline, kind, expires_at=server_time(client) + 100)
    assert pipeline.fetch(in_time).shape == (60, 90, 3)
    wait_until_idle(client)
    worker.wait_for_line(f"request {late} is not computed, its inputs are removed")
    assert worker.stop() == 0


def test_the_clock_is_that_of_redis(raw: RedisClient) -> None:
    async def scenario(queues: Queues) -> None:
        queues.clock.set(time.monotonic() - 2, 5, 0)  # the reply took two seconds
        assert 7 <= queues.clock.now() < 8
        raw.rpush(LONG, b"job")
        await claim_one(queues)
        assert abs(queues.clock.now() - server_time(raw)) < 1

    run(raw, scenario)


def test_a_job_that_expires_while_it_is_read_ahead_is_not_computed(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    worker = start_worker(STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1)
    first = send(pipeline, "long", request_id="first", expires_at=server_time(client) + 1e6)
    worker.wait_for_line("request first taken from")
    expires_at = server_time(client) + 1
    send(pipeline, "short", request_id="waits", expires_at=expires_at)
    send(pipeline, "short", request_id="lives")
    worker.wait_for_line("request waits taken from")
    wait_until(lambda: server_time(client) > expires_at, "its time is over")
    hold.unlink()
    assert pipeline.fetch(first).shape == (60, 90, 3)
    assert pipeline.result("waits")["reason"] == "expired"
    assert pipeline.fetch("lives").shape == (60, 90, 3)
    wait_until(lambda: not segments(), "nothing is left of them")
    assert worker.stop() == 0


def test_a_job_that_expires_while_it_waits_for_another_attempt_is_told_as_expired(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    start_worker(RETRY_DELAY_S=1.5)
    pipeline.fetch(send(pipeline))  # it has seen segments
    message = make_message(pipeline, request_id="late", expires_at=server_time(client) + 1)
    put_back = hide(message)
    pipeline.push(message, "long")
    assert pipeline.result("late")["reason"] == "expired"
    put_back()
    pipeline.close()
    assert not client.exists(keys.DEAD, keys.ATTEMPTS)


def test_an_expired_job_of_a_dead_worker_is_told_as_expired(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, server: RedisServer
) -> None:
    message = make_message(pipeline, request_id="late", expires_at=server_time(client) - 1)
    leave_behind(server, client, encode(message))
    start_worker(**SOON)
    assert pipeline.result("late")["reason"] == "expired"
    wait_until(lambda: not segments(), "the inputs are unlinked")


def test_a_worker_that_sees_no_segments_leaves_jobs_to_clean_up_to_those_that_do(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, server: RedisServer
) -> None:
    """It could not unlink their inputs."""
    visibility = visibility_of(server)
    message = make_message(pipeline, expires_at=1)
    claim = Claim(Kind.LONG, encode(message))
    put_back = [hide(message, f"preprocessed_{part}_shm_info") for part in ("img", "mask")]
    assert not visibility.leaves(claim), "no other worker could do it"
    visibility.update(has_rivals=True, known_gone=set())
    assert visibility.leaves(claim)
    assert visibility.is_blind
    for one in put_back:
        one()
    assert not visibility.leaves(claim), "it sees the segments"
    assert not visibility.is_blind


def test_a_blind_worker_leaves_jobs_to_clean_up_although_nobody_else_is_alive(
    server: RedisServer,
) -> None:
    visibility = visibility_of(server)
    missing = TransientFailure("segment_missing", "gone")
    claims = [Claim(Kind.LONG, b'{"n": %d}' % number) for number in range(MOST_MISSES + 1)]
    visibility.note(claims[:-2], [missing] * (MOST_MISSES - 1))
    assert not visibility.leaves(claims[-1]), "its inputs may be gone for everybody"
    visibility.note(claims[:-1], [missing] * MOST_MISSES)
    assert visibility.leaves(claims[-1])


def test_an_older_submission_that_has_expired_leaves_the_newer_ones_result(
    raw: RedisClient,
) -> None:
    async def scenario(queues: Queues) -> None:
        raw.rpush(LONG, b'{"request_id": "r", "n": 1}', b'{"request_id": "r", "n": 2}')
        older, newer = await claim_one(queues), await claim_one(queues)
        await queues.enter([older, newer])
        info = {"image_id": "a", "inpaint_shm_info": '{"shm_name": "s2"}'}
        assert await queues.commit(newer, "r", "s2", info) == (Ending.COMMITTED, "")
        error = Expired("expired", "late")
        assert await queues.lapse(older, ("r", "a"), error) is Ending.SUPERSEDED
        assert raw.hget(keys.result("r"), "status") is None
        cleanup = raw.lrange(keys.cleanup(queues.identity.worker), 0, -1)
        assert sorted(cleanup) == sorted([older.payload, newer.payload])

    run(raw, scenario)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(1764432000, 1764432000.0), (1764432000.5, 1764432000.5), ("1764432000", 1764432000.0)],
)
def test_a_time_is_a_number_of_seconds_or_its_text(
    pipeline: Pipeline, value: object, seconds: float
) -> None:
    message = make_message(pipeline, expires_at=value)
    job = parse_job(encode(message), Settings(_env_file=None).wire_format)
    assert job.expires_at == seconds
    assert expiry(job, seconds - 0.001) is None
    assert expiry(job, seconds) is not None


def test_a_message_without_a_time_or_with_null_never_expires(pipeline: Pipeline) -> None:
    plain = make_message(pipeline)
    for message in (plain, plain | {"expires_at": None}):
        job = parse_job(encode(message), Settings(_env_file=None).wire_format)
        assert job.expires_at is None
        assert expiry(job, time.time() * 100) is None


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (1764432000000, "may be one in milliseconds"),
        ("2025-11-29T12:00:00Z", "a time in unix seconds"),
        (True, "a time in unix seconds"),
        ([1], "a time in unix seconds"),
        ("nan", "a time in unix seconds"),
        ("1e999", "a time in unix seconds"),
    ],
)
def test_a_time_that_is_none_is_refused_by_name(
    pipeline: Pipeline, value: object, complaint: str
) -> None:
    message = make_message(pipeline, expires_at=value)
    with pytest.raises(BadMessage, match=f"expires_at is .*{complaint}") as error:
        parse_job(encode(message), Settings(_env_file=None).wire_format)
    assert error.value.reason == "bad_field"
