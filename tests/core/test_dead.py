"""The dead-letter list: what may happen to an entry while others work on it."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np
import pytest

from core import keys
from core.broker.dead_job import write_entry
from core.broker.dead_list import DeadList, Filter
from core.config import Settings
from core.identity import crew_of, current_namespace
from core.pixels import shm
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline, page
from harness.workers import OWN, StartWorker, segments


@pytest.fixture
def settings(server: RedisServer) -> Settings:
    return Settings(redis_url=server.url)


@pytest.fixture
def dead(client: RedisClient, settings: Settings, shm_baseline: None) -> DeadList:
    return DeadList(settings, client)


def add(client: RedisClient, name: str = "a", **about: Any) -> bytes:
    """A dead job with inputs; its payload."""
    inputs = {}
    for field in ("preprocessed_img_shm_info", "preprocessed_mask_shm_info"):
        inputs[field] = {"shm_name": f"img_shm_{OWN}{name}_{field}"}
        shm.write(inputs[field]["shm_name"], np.zeros(10, np.uint8), 0o600)
    payload = json.dumps({"request_id": name, "image_id": f"{name}.jpg", **inputs}).encode()
    told = {
        "reason": "crashed",
        "error": "it did",
        "attempts": 3,
        "queue": LONG,
        "worker": "w",
        "namespace": current_namespace(),
        **about,
    }
    client.rpush(keys.DEAD, write_entry(payload, **told))
    return payload


def test_a_retry_puts_the_payload_to_the_tail_without_attempts(
    client: RedisClient, settings: Settings, dead: DeadList
) -> None:
    payload = add(client)
    client.rpush(LONG, "another")
    client.hset(keys.ATTEMPTS, keys.sha1(payload), 2)
    client.hset(keys.result("a"), mapping={"status": "failed", "error": "it did"})
    (job,) = dead.matching(Filter())
    assert dead.refusal(job) == ""
    assert dead.retry(job)
    assert client.lrange(LONG, 0, -1) == [b"another", payload]
    assert len(dead) == 0
    assert not client.exists(keys.ATTEMPTS, keys.result("a"))
    assert not dead.retry(job), "a second time it is no longer there"
    assert client.llen(LONG) == 2
    for name in segments():
        shm.unlink(name, settings.uids)


def test_a_retry_leaves_a_result_of_the_same_request_alone(
    client: RedisClient, settings: Settings, dead: DeadList
) -> None:
    add(client)
    client.hset(keys.result("a"), mapping={"status": "done", "inpaint_shm_info": "{}"})
    (job,) = dead.matching(Filter())
    assert dead.retry(job)
    assert client.hget(keys.result("a"), "status") == b"done"
    for name in segments():
        shm.unlink(name, settings.uids)


def test_a_payload_that_is_not_utf_8_is_put_back_byte_for_byte(
    client: RedisClient, dead: DeadList
) -> None:
    payload = b'{"request_id": "\xff\x00"}'
    client.rpush(keys.DEAD, write_entry(payload, queue=LONG, reason="bad_json"))
    (job,) = dead.matching(Filter())
    assert dead.retry(job)
    assert client.lpop(LONG) == payload


def test_a_discard_unlinks_the_inputs_and_leaves_nothing(
    client: RedisClient, dead: DeadList
) -> None:
    add(client, "a")
    add(client, "b")
    first, second = dead.matching(Filter())
    assert dead.discard(first)
    assert [job.request_id for job in dead.matching(Filter())] == ["b"]
    assert len(segments()) == 2
    assert not dead.discard(first)
    assert dead.discard(second)
    assert client.keys() == []


def test_a_discard_keeps_inputs_that_the_same_message_in_the_queue_needs(
    client: RedisClient, settings: Settings, dead: DeadList
) -> None:
    payload = add(client)
    client.rpush(LONG, payload)
    (job,) = dead.matching(Filter())
    assert dead.discard(job)
    assert len(dead) == 0
    assert len(segments()) == 2
    for name in segments():
        shm.unlink(name, settings.uids)


def test_inputs_on_another_host_are_left_to_a_worker_there(
    client: RedisClient, settings: Settings, dead: DeadList
) -> None:
    payload = add(client, namespace="elsewhere")
    (job,) = dead.matching(Filter())
    assert dead.inputs_here(job) is None
    assert dead.discard(job)
    (member,) = client.smembers(keys.workers("elsewhere"))
    assert client.lrange(keys.cleanup(member.decode()), 0, -1) == [payload]
    assert crew_of(settings.queues, "elsewhere").has(member.decode()), (
        "or no worker there would look at it"
    )
    for name in segments():
        shm.unlink(name, settings.uids)


def test_what_a_killed_discard_left_is_finished_by_a_worker(
    client: RedisClient,
    dead: DeadList,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(client)
    (job,) = dead.matching(Filter())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shm, "unlink_all", killed)
    with pytest.raises(KeyboardInterrupt):
        dead.discard(job)
    monkeypatch.undo()
    assert len(segments()) == 2
    start_worker(REAP_INTERVAL_S=0.1)
    wait_until(lambda: not segments(), "a worker has finished it")
    wait_until(lambda: not client.keys("inpainting:cleanup:*"), "and left no trace")


def test_a_job_whose_inputs_are_gone_or_whose_queue_is_foreign_is_not_to_be_tried(
    client: RedisClient, settings: Settings, dead: DeadList
) -> None:
    add(client, "gone")
    for name in segments():
        shm.unlink(name, settings.uids)
    add(client, "foreign", queue="somebody:else")
    gone, foreign = dead.matching(Filter())
    assert "its inputs are gone" in dead.refusal(gone)
    assert "'somebody:else', which is not configured here" in dead.refusal(foreign)
    for change in (dead.retry, dead.discard):
        with pytest.raises(ValueError, match="not configured here"):
            change(foreign)
    assert len(dead) == 2
    assert client.type("somebody:else") == b"none"
    for name in segments():
        shm.unlink(name, settings.uids)


def test_entries_that_somebody_else_has_written_are_passed_over(
    client: RedisClient, dead: DeadList
) -> None:
    hostile = [
        "",
        "no json",
        "[]",
        "5",
        "null",
        "{}",
        '{"raw": 1, "at": "x"}',
        '{"raw_base64": "é"}',
        '{"raw": "x", "attempts": 1e999}',
        "[" * 100_000,
        b"\xff",
        '{"raw": "\\ud800"}',
    ]
    client.rpush(keys.DEAD, *hostile)
    client.rpush(keys.DEAD, write_entry(b"{}", queue=LONG, reason="r"))
    assert "r" in [job.reason for job in dead.matching(Filter())]
    assert dead.latest(1)[0].reason == "r"
    assert len(dead.latest(100)) <= 4
    for job in dead.latest(100):
        assert dead.inputs_here(job) in (None, False)
        assert isinstance(dead.refusal(job), str)


def test_filters_agree_with_everything_that_is_given(
    client: RedisClient, settings: Settings, dead: DeadList
) -> None:
    add(client, "a")
    add(client, "b", reason="bad_json", error="No JSON")
    add(client, "c", queue="lama_inference:shorttasks")
    by_request = {job.request_id: job for job in dead.matching(Filter())}
    assert list(by_request) == ["a", "b", "c"]

    def found(**wanted: Any) -> str:
        return "".join(job.request_id for job in dead.matching(Filter(**wanted)))

    assert found(ids=("b",)) == "b"
    assert found(ids=(by_request["c"].id[:6], "a")) == "ac"
    assert found(ids=(by_request["c"].id[:3],)) == "", "three digits are too few to mean one"
    assert found(reason="crashed") == "ac"
    assert found(reason="crashed", queue=LONG) == "a"
    assert found(text="no json") == "b"
    assert found(text="C.JPG") == "c"
    assert found(newer_than_s=3600) == "abc"
    assert found(older_than_s=3600) == ""
    for name in segments():
        shm.unlink(name, settings.uids)


def test_a_long_list_is_read_to_its_end(client: RedisClient, dead: DeadList) -> None:
    entries = [
        json.dumps({"raw": "x", "reason": str(number), "at": time.time()}) for number in range(2500)
    ]
    client.rpush(keys.DEAD, *entries)
    assert [job.reason for job in dead.matching(Filter())] == [str(n) for n in range(2500)]
    assert [job.reason for job in dead.latest(2)] == ["2499", "2498"]


def test_a_job_that_died_of_a_passing_cause_is_done_after_a_retry(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, settings: Settings
) -> None:
    start_worker(MAX_ATTEMPTS=1)
    message = pipeline.message(*page(60, 90, 1), "long", canvas=(64, 96))
    name = message["preprocessed_mask_shm_info"]["shm_name"]
    hidden = f"/dev/shm/hidden_{name}"
    os.rename(f"/dev/shm/{name}", hidden)
    pipeline.push(message, "long")
    wait_until(lambda: client.llen(keys.DEAD) == 1, "it is dead")
    dead = DeadList(settings, client)
    (job,) = dead.matching(Filter())
    assert job.reason == "segment_missing"
    assert dead.refusal(job) != ""
    os.rename(hidden, f"/dev/shm/{name}")
    assert dead.refusal(job) == ""
    assert dead.retry(job)
    assert pipeline.fetch(message["request_id"]).shape == (60, 90, 3)
    assert len(dead) == 0
