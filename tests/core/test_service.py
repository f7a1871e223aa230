"""The worker as its neighbours see it: messages in, results out, with a stub for the network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.fills import GREY
from harness.jobs import CANVAS, dead_entries, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Kind, Pipeline, page
from harness.workers import OwnPipeline, StartWorker, worker_id
from tests.core.support import take, wait_until_idle


@pytest.mark.parametrize("kind", ["long", "short"])
def test_a_job_becomes_a_picture_of_the_original_size_with_the_hole_filled(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, kind: Kind
) -> None:
    start_worker()
    image, mask = page(60, 90, seed=3)
    message = pipeline.message(image, mask, kind, canvas=CANVAS, image_id="a.jpg")
    pipeline.push(message, kind)
    fields = pipeline.result(message["request_id"])
    assert fields["image_id"] == "a.jpg"
    assert fields["is_long"] == ("true" if kind == "long" else "false")
    assert fields["inpaint_shm_info"]["shm_name"].startswith("img_shm_")
    picture = take(fields)
    assert picture.shape == image.shape
    assert np.array_equal(picture[mask == 0], image[mask == 0])
    assert (picture[mask > 0] == GREY).all()
    wait_until_idle(client)
    assert not pipeline.exists(message["preprocessed_img_shm_info"]["shm_name"])
    assert not pipeline.exists(message["preprocessed_mask_shm_info"]["shm_name"])


def test_a_shrunk_picture_keeps_the_originals_pixels_outside_the_hole(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    start_worker()
    image, mask = page(200, 300, seed=5)
    message = pipeline.message(image, mask, "long", canvas=CANVAS, original=True)
    pipeline.push(message, "long")
    picture = pipeline.fetch(message["request_id"])
    hole = pipeline.expected_restore(
        pipeline.prepare(image, mask, "long", canvas=CANVAS)[1],
        message["padding_info"],
        message["original_size"],
    )
    assert np.array_equal(picture[hole == 0], image[hole == 0])
    assert (picture[mask > 0] == GREY).mean() > 0.9
    assert pipeline.exists(message["original_shm_info"]["shm_name"])


@pytest.mark.parametrize("setting", ["0", "1"])
def test_without_a_usable_original_the_job_is_done_from_the_shrunk_picture(
    start_worker: StartWorker, pipeline: Pipeline, setting: str
) -> None:
    worker = start_worker(COMPOSITE_ORIGINAL=setting)
    image, mask = page(200, 300, seed=5)
    message = pipeline.message(image, mask, "long", canvas=CANVAS, original=True)
    if setting == "1":
        message["original_shm_info"]["shm_name"] = "img_shm_that_is_not_there"
    pipeline.push(message, "long")
    picture = pipeline.fetch(message["request_id"])
    assert picture.shape == image.shape
    assert not np.array_equal(picture[mask == 0], image[mask == 0])
    assert ("without its original" in worker.output) == (setting == "1")


def test_the_hash_appears_at_once_and_whole(start_worker: StartWorker, pipeline: Pipeline) -> None:
    pipeline.listen()
    start_worker()
    request = send(pipeline, "short")
    pipeline.fetch(request)
    (event,) = [event for event in pipeline.events(request) if event[0] == "hset"]
    assert {"image_id", "inpaint_shm_info", "is_long"} <= event[1].keys()


def test_the_queue_decides_where_is_long_disagrees(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    worker = start_worker()
    request = send(pipeline, "short", is_long=True)
    fields = pipeline.result(request)
    take(fields)
    assert fields["is_long"] == "false"
    assert "is_long=True but came from the short queue" in worker.output


def test_masks_of_one_channel_of_bool_and_of_float_are_holes_like_any_other(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    start_worker()
    image, mask = page(60, 90, seed=3)
    for change in (
        lambda grey: grey[..., None],
        lambda grey: grey > 0,
        lambda grey: grey.astype(np.float32) / 255,
    ):
        message = pipeline.message(image, mask, "short", canvas=(60, 90))
        message["preprocessed_mask_shm_info"] = pipeline.put_array(change(mask), "mask_shm_")
        pipeline.push(message, "short")
        picture = pipeline.fetch(message["request_id"])
        assert (picture[mask > 0] == GREY).all()
    pipeline.close()


def test_a_float_picture_has_the_scale_of_uint8(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    start_worker()
    image, mask = page(60, 90, seed=3)
    message = pipeline.message(image, mask, "short", canvas=(60, 90))
    floating = image[..., ::-1].astype(np.float32)
    message["preprocessed_img_shm_info"] = pipeline.put_array(floating)
    pipeline.push(message, "short")
    picture = pipeline.fetch(message["request_id"])
    assert np.array_equal(picture[mask == 0], image[mask == 0])
    pipeline.close()


def test_a_request_sent_again_replaces_the_result_that_nobody_fetched(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    start_worker()
    names = []
    for seed in (1, 2):
        send(pipeline, "short", seed=seed, request_id="again")
        wait_until(lambda: client.hget("inpainting_result:again", "worker"), "there is a result")
        wait_until_idle(client)
        info = json.loads(client.hget("inpainting_result:again", "inpaint_shm_info"))
        names.append(info["shm_name"])
    assert names[0] != names[1]
    assert [pipeline.exists(name) for name in names] == [False, True]
    pipeline.fetch("again")


def test_one_batch_of_many_jobs_gives_each_its_own_picture(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    pages = [page(60 + 2 * number, 90, seed=number) for number in range(12)]
    requests = [pipeline.submit(*one, "long", canvas=(96, 96)) for one in pages]
    worker = start_worker(INPAINTING_BATCH_SIZE_LONG=8)
    for request, (image, mask) in zip(requests, pages, strict=True):
        picture = pipeline.fetch(request)
        assert np.array_equal(picture[mask == 0], image[mask == 0])
    worker.wait_for_line("batch of 8 long: 8 delivered, total")
    worker.wait_for_line("batch of 4 long: 4 delivered, total")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a segment to another uid")
def test_a_worker_that_is_root_gives_the_result_to_the_uid_that_the_picture_came_from(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    start_worker(SHM_ALLOWED_UIDS="54321")
    message = pipeline.message(*page(60, 90, 1), "long", canvas=CANVAS)
    for info in ("preprocessed_img_shm_info", "preprocessed_mask_shm_info"):
        os.chown(f"/dev/shm/{message[info]['shm_name']}", 54321, -1)
    pipeline.push(message, "long")
    fields = pipeline.result(message["request_id"])
    path = Path("/dev/shm", fields["inpaint_shm_info"]["shm_name"])
    assert path.stat().st_uid == 54321
    take(fields)


def test_a_worker_says_that_it_cannot_unlink_what_it_may_read(
    start_worker: StartWorker, client: RedisClient, tmp_path: Path
) -> None:
    program = tmp_path / "nobody.py"  # not in truth: its user might be unable to read Python
    program.write_text(
        "import os\n"
        "from core.pixels import shm\n"
        "from harness.launch import launch\n"
        "shm.not_unlinkable = lambda uids: sorted(set(uids) - {os.geteuid()})\n"
        "launch()\n"
    )
    worker = start_worker(program, SHM_ALLOWED_UIDS="54321,54320")
    worker.wait_for_line("can't unlink segments of uid 54320, 54321 in /dev/shm")
    assert "can't unlink" not in start_worker(program).output


def test_a_worker_survives_an_outage_of_redis_with_a_batch_in_hand(
    start_worker: StartWorker,
    make_hold: Callable[[], Path],
    shm_baseline: None,
) -> None:
    with RedisServer(append_only=True) as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        worker = start_worker(REDIS_URL=server.url, STUB_HOLD=hold)
        first = send(pipeline, "long")
        worker.wait_for_line("taken from")
        server.stop()
        worker.wait_for_line("cannot be used")
        hold.unlink()
        server.start()
        assert pipeline.fetch(first).shape == (60, 90, 3)
        assert pipeline.fetch(send(pipeline, "short")).shape == (60, 90, 3)
        worker.wait_for_line("redis is back after")
        assert worker.output.count("cannot be used") < 5
        assert worker.stop() == 0


def test_jobs_claimed_without_a_reply_are_done_all_the_same(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(HEARTBEAT_INTERVAL_S=0.2, HEARTBEAT_TTL_S=1)
    identity = worker_id(client, worker)
    image, mask = page(60, 90, 1)
    message = pipeline.message(image, mask, "long", canvas=CANVAS)
    client.rpush(f"inpainting:processing:{identity}:long", json.dumps(message))
    assert pipeline.fetch(message["request_id"]).shape == image.shape
    worker.wait_for_line("took up 1 job claimed")


def test_a_worker_presumed_dead_registers_again_and_discards_what_it_lost(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    worker = start_worker(STUB_HOLD=hold, HEARTBEAT_INTERVAL_S=0.1, HEARTBEAT_TTL_S=1)
    identity = worker_id(client, worker)
    request = send(pipeline, "long")
    worker.wait_for_line("taken from")
    payload = client.lpop(f"inpainting:processing:{identity}:long")  # as another's reaper does
    client.delete(f"inpainting:worker:{identity}")
    worker.wait_for_line("registered")
    hold.unlink()
    worker.wait_for_line("no longer this worker's")
    assert not client.exists(f"inpainting_result:{request}")
    client.rpush(LONG, payload)
    assert pipeline.fetch(request).shape == (60, 90, 3)


def test_at_most_once_delivers_too_and_says_what_it_does_not_promise(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(DELIVERY="at_most_once")
    assert "a crash loses what is computed and read ahead" in worker.output
    for kind in ("long", "short", "long"):
        assert pipeline.fetch(send(pipeline, kind)).shape == (60, 90, 3)
    client.rpush(SHORT, b"bad")
    wait_until(lambda: dead_entries(client), "the bad job is dead")
    assert worker.stop() == 0
    assert client.keys("inpainting:processing:*") == []
