"""Several submissions of one request: an older one never replaces the newer result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from core import keys
from harness.jobs import CANVAS, hide, send
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline, page
from harness.workers import StartWorker, segments


@pytest.mark.parametrize("is_fetched", [False, True], ids=["unfetched", "fetched"])
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_an_older_submission_that_is_tried_again_late_does_not_replace_the_newer_result(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    is_fetched: bool,
    delivery: str,
) -> None:
    worker = start_worker(RETRY_DELAY_S=1.5, DELIVERY=delivery)
    older = pipeline.message(
        *page(60, 90, 1), "long", canvas=CANVAS, request_id="again", image_id="older.jpg"
    )
    put_back = hide(older)
    pipeline.push(older, "long")
    worker.wait_for_line("request again failed and is tried again")
    put_back()
    send(pipeline, seed=2, request_id="again", image_id="newer.jpg")
    if is_fetched:
        pipeline.fetch("again")
    worker.wait_for_line("request again is superseded")
    wait_until(
        lambda: not client.exists(keys.delayed(LONG), keys.SUBMISSIONS, keys.ATTEMPTS),
        "nothing is known of the older one any more",
    )
    if is_fetched:
        assert not client.exists("inpainting_result:again")
    else:
        assert client.hget("inpainting_result:again", "image_id") == b"newer.jpg"
        pipeline.fetch("again")
    wait_until(lambda: not segments(), "the inputs of both are unlinked")
    assert not client.exists(keys.DEAD)


def test_of_two_submissions_that_an_idle_worker_finds_the_second_is_the_newer_one(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    start_worker()
    for seed in range(3):
        wait_until(lambda: client.info("clients")["blocked_clients"] == 2, "the worker is idle")
        older, newer = (
            json.dumps(
                pipeline.message(
                    *page(60, 90, seed), "long", canvas=CANVAS, request_id="again", image_id=name
                )
            )
            for name in ("older.jpg", "newer.jpg")
        )
        client.rpush(LONG, older, newer)
        wait_until(lambda: not client.exists(keys.SUBMISSIONS, LONG), "both are done")
        wait_until(lambda: len(segments()) == 1, "the inputs of both are unlinked")
        assert client.hget("inpainting_result:again", "image_id") == b"newer.jpg"
        pipeline.fetch("again")


def test_an_older_submission_on_a_slower_worker_does_not_replace_the_newer_result(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    slow = start_worker(STUB_HOLD=hold)
    send(pipeline, request_id="again", image_id="older.jpg")
    slow.wait_for_line("request again taken from")
    send(pipeline, "short", request_id="read-ahead")
    slow.wait_for_line("request read-ahead taken from")  # its hands are full
    start_worker()
    send(pipeline, seed=2, request_id="again", image_id="newer.jpg")
    wait_until(lambda: client.exists("inpainting_result:again"), "the newer one is done")
    hold.unlink()
    slow.wait_for_line("request again is superseded")
    assert client.hget("inpainting_result:again", "image_id") == b"newer.jpg"
    pipeline.fetch("read-ahead")
    pipeline.fetch("again")
    wait_until(lambda: not segments(), "no input and no result is left")
    assert not client.exists(keys.SUBMISSIONS, keys.DEAD)


def test_a_newer_submission_that_fails_leaves_the_older_ones_result(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(RETRY_DELAY_S=1)
    older = pipeline.message(*page(60, 90, 1), "long", canvas=CANVAS, request_id="again")
    put_back = hide(older)
    pipeline.push(older, "long")
    worker.wait_for_line("request again failed and is tried again")
    send(pipeline, seed=2, request_id="again", padding_info="bad")
    wait_until(lambda: client.llen(keys.DEAD), "the newer one is dead")
    put_back()
    wait_until(
        lambda: client.hexists("inpainting_result:again", "inpaint_shm_info"), "there is a result"
    )
    pipeline.fetch("again")
