"""Messages and segments that cannot be done: each has a reason, and costs nobody else."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from core import keys
from harness.jobs import CANVAS, dead_entries, send
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Pipeline, page
from harness.workers import OWN, SOON, StartWorker, segments
from tests.core.support import wait_until_idle


def spoiled(pipeline: Pipeline, what: str) -> dict[str, object] | bytes:
    """A message with a segment, or a field, that cannot lead to a result."""
    image, mask = page(60, 90, 1)
    message = pipeline.message(image, mask, "short", canvas=CANVAS)
    picture = message["preprocessed_img_shm_info"]
    if what == "not json":
        return b"\xff not json"
    if what == "no object":
        return b"[]"
    if what == "no request":
        del message["request_id"]
    elif what == "not a number":
        message["padding_info"] = [math.nan, 0, 0, 0]
    elif what == "padding":
        message["padding_info"] = [0, 0, 0, 96]
    elif what == "too small":
        os.truncate(f"/dev/shm/{picture['shm_name']}", 10)
    elif what == "sizes":
        message["preprocessed_mask_shm_info"] = pipeline.put_array(mask[:-1])
    elif what == "nan":
        floating = np.full((*CANVAS, 3), np.nan, np.float32)
        message["preprocessed_img_shm_info"] = pipeline.put_array(floating)
    elif what == "range":
        floating = np.full((*CANVAS, 3), 1e9, np.float64)
        message["preprocessed_img_shm_info"] = pipeline.put_array(floating)
    elif what == "foreign":
        os.chown(f"/dev/shm/{picture['shm_name']}", 54321, -1)
    elif what == "network":
        message["image_id"] = "explode.jpg"
    elif what == "finisher":
        message["image_id"] = "nameless.jpg"
    else:
        picture["shm_name"] = what
    return message


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("not json", "bad_json"),
        ("no object", "bad_json"),
        ("no request", "bad_field"),
        ("not a number", "bad_json"),
        ("padding", "bad_padding"),
        ("too small", "segment_too_small"),
        ("sizes", "size_mismatch"),
        ("nan", "bad_values"),
        ("range", "bad_values"),
        ("network", "inference_failed"),
        ("finisher", "internal_error"),
        ("img_shm_missing", "segment_missing"),
        ("../../etc/passwd", "bad_name"),
        pytest.param(
            "foreign",
            "foreign_segment",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can chown"),
        ),
    ],
)
def test_a_bad_job_is_dead_with_a_reason_and_its_batch_mates_are_delivered(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    what: str,
    reason: str,
) -> None:
    before = segments()
    mates = [send(pipeline, "short", seed=1)]
    bad = spoiled(pipeline, what)
    inputs = segments() - before
    payload = pipeline.push(bad, "short")
    mates += [send(pipeline, "short", seed=2)]
    worker = start_worker()
    for mate in mates:
        assert pipeline.fetch(mate).shape == (60, 90, 3)
    wait_until(lambda: dead_entries(client), "the bad job is dead")
    (entry,) = dead_entries(client)
    assert entry["reason"] == reason
    assert entry["raw"] == payload.decode("utf-8", "replace")
    assert entry["queue"] == SHORT
    assert entry["attempts"] == (
        3 if reason in ("segment_missing", "inference_failed", "internal_error") else 1
    )
    if isinstance(bad, dict) and "request_id" in bad:
        fields = client.hgetall(f"inpainting_result:{bad['request_id']}")
        assert fields[b"status"] == b"failed"
        assert fields[b"error"].decode() == entry["error"]
    wait_until_idle(client)
    assert not client.exists(keys.ATTEMPTS)
    left = segments() - before
    assert left <= inputs
    assert len(left) >= 2  # kept for another attempt
    assert worker.poll() is None
    assert send_and_fetch(pipeline)
    pipeline.close()
    for name in left & segments():
        os.unlink(f"/dev/shm/{name}")


def test_a_queue_that_is_no_list_holds_up_neither_the_other_nor_itself_once_it_is_one(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    client.hset(LONG, "no", "list")
    start_worker()
    for seed in range(6):
        assert pipeline.fetch(send(pipeline, "short", seed=seed)).shape == (60, 90, 3)
    client.delete(LONG)
    assert pipeline.fetch(send(pipeline, "long")).shape == (60, 90, 3)


def test_a_job_that_killed_a_worker_takes_none_of_those_behind_it_with_it(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    requests = [send(pipeline, "short", seed=seed) for seed in range(4)]
    poison, *others = client.lrange(SHORT, 0, -1)
    client.hset(keys.ATTEMPTS, keys.sha1(poison), 1)
    victim = start_worker(FAULT_POINT="claimed", **SOON)
    victim.wait()
    (processing,) = client.scan_iter("inpainting:processing:*")
    assert client.lrange(processing, 0, -1) == [poison]
    assert client.lrange(SHORT, 0, -1) == others
    start_worker(**SOON)
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)


def send_and_fetch(pipeline: Pipeline) -> bool:
    return pipeline.fetch(send(pipeline, "short")).size > 0


def test_a_segment_that_comes_late_is_found_by_a_later_try(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    worker = start_worker(RETRY_DELAY_S=0.2)
    image, mask = page(64, 96, 1)
    message = pipeline.message(image, mask, "long", canvas=CANVAS)
    late = f"img_shm_{OWN}late"
    early = message["preprocessed_img_shm_info"]["shm_name"]
    message["preprocessed_img_shm_info"]["shm_name"] = late
    pipeline.push(message, "long")
    worker.wait_for_line("is tried again in 0.2 s (attempt 1 of 3)")
    os.rename(f"/dev/shm/{early}", f"/dev/shm/{late}")
    assert pipeline.fetch(message["request_id"]).shape == image.shape
    wait_until(lambda: not pipeline.exists(late), "the inputs are unlinked")


def test_no_message_can_forge_a_line_of_the_log(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    worker = start_worker()
    forged = (
        "x\n2026-01-01 00:00:00,000 CRITICAL core.flow.service: forged\x1b[2J\u202edegrof\u2069"
    )
    send(pipeline, "short", request_id=forged)
    pipeline.fetch(forged)
    send(pipeline, "short", request_id=forged, padding_info="bad")
    worker.wait_for_line("is dead")
    assert "forged" in worker.output
    assert not any(line.startswith("2026-01-01") for line in worker.output.splitlines())
    assert not {*"\x1b\u202e\u2069"} & {*worker.output}
    pipeline.close()
