"""Hundreds of jobs, good and bad: nothing is kept of them, and none is held up."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

from core import keys
from core.identity import current_namespace
from harness.jobs import CANVAS, dead_entries, send
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import Kind, Pipeline, page
from harness.workers import SOON, StartWorker


def without_picture(pipeline: Pipeline, kind: Kind = "long", **options: Any) -> bytes:
    """A message whose picture is not there, pushed to a queue."""
    message = pipeline.message(*page(60, 90, 1), kind, canvas=CANVAS, **options)
    os.unlink(f"/dev/shm/{message['preprocessed_img_shm_info']['shm_name']}")
    return pipeline.push(message, kind)


def test_nothing_is_kept_of_hundreds_of_results_that_were_fetched(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    start_worker(**SOON)
    key = keys.segments(current_namespace())
    for _ in range(4):
        requests = [send(pipeline, "short", seed) for seed in range(100)]
        for request in requests:
            pipeline.fetch(request)
    unread = send(pipeline)
    wait_until(lambda: client.zcount(key, 0, "+inf") == 1, "what was fetched is forgotten")
    wait_until(lambda: client.exists(keys.result(unread)), "there is a result")
    pipeline.fetch(unread)
    wait_until(lambda: client.zcard(key) == 0, "and so is the last one")
    assert not client.exists(keys.SUBMISSIONS, keys.ATTEMPTS)
    wait_until(lambda: not list(client.scan_iter("inpainting:claims:*")), "no claim is noted")


def test_hundreds_of_jobs_without_segments_hold_up_no_good_one(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(
        MAX_ATTEMPTS=5, RETRY_DELAY_S=0.1, RETRY_DELAY_MAX_S=0.3, LOG_LEVEL="INFO"
    )
    pipeline.fetch(send(pipeline))
    message = json.loads(without_picture(pipeline))
    for number in range(100):
        pipeline.push({**message, "request_id": f"r{number}"}, "long")
    while client.llen(keys.DEAD) < 101:
        began = time.monotonic()
        pipeline.fetch(send(pipeline, "short"))
        assert time.monotonic() - began < 2
    delays = {float(one) for one in re.findall(r"is tried again in ([\d.]+) s", worker.output)}
    assert delays == {0.1, 0.2, 0.3}
    assert {entry["attempts"] for entry in dead_entries(client)} == {5}
    pipeline.close()
