"""The worker as its neighbours see it: messages in, results out, with a stub for the network."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from core import keys
from harness.fills import GREY
from harness.jobs import CANVAS, dead_entries, processing, send
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Pipeline, page
from harness.workers import OWN, SOON, OwnPipeline, StartWorker, segments, worker_id


def take(fields: dict[str, Any]) -> np.ndarray:
    """The picture of a result that was read from its hash; its segment is unlinked."""
    info = fields["inpaint_shm_info"]
    path = Path("/dev/shm", info["shm_name"])
    picture = np.frombuffer(path.read_bytes(), info["dtype"]).reshape(info["shape"])
    path.unlink()
    return picture


def wait_until_idle(client: redis.Redis) -> None:
    """Return once nothing is queued, in hand or to be cleaned up."""
    wait_until(
        lambda: (
            not client.exists(LONG, SHORT)
            and not list(client.scan_iter("inpainting:processing:*"))
            and not list(client.scan_iter("inpainting:cleanup:*"))
        ),
        "the worker is idle",
    )


# -- the main thing -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["long", "short"])
def test_a_job_becomes_a_picture_of_the_original_size_with_the_hole_filled(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis, kind: str
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
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
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
    start_worker: StartWorker, client: redis.Redis, tmp_path: Path
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


# -- batches and turns ------------------------------------------------------------------------


def test_long_and_short_batches_alternate_while_both_queues_have_work(
    start_worker: StartWorker, pipeline: Pipeline, tmp_path: Path
) -> None:
    requests = [send(pipeline, "long") for _ in range(12)]
    requests += [send(pipeline, "short") for _ in range(4)]
    trace = tmp_path / "trace"
    start_worker(INPAINTING_BATCH_SIZE_LONG=2, INPAINTING_BATCH_SIZE_SHORT=2, STUB_TRACE=trace)
    for request in requests:
        pipeline.fetch(request)
    batches = [line.split() for line in trace.read_text().splitlines()]
    kinds = [batch[0] for batch in batches]
    assert kinds == ["long", "short", "long", "short", "long", "long", "long", "long"]
    assert {len(batch) - 1 for batch in batches} == {2}


def test_an_idle_worker_claims_a_job_within_20_ms(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    start_worker()
    delays = []
    for kind in ("long", "short") * 10:
        wait_until(
            lambda: client.info("clients")["blocked_clients"] == 2, "the worker waits for jobs"
        )
        queue = LONG if kind == "long" else SHORT
        image, mask = page(60, 90, 1)
        message = pipeline.message(image, mask, kind, canvas=CANVAS)
        pushed = time.perf_counter()
        pipeline.push(message, kind)
        while client.exists(queue):
            pass
        delays.append(time.perf_counter() - pushed)
        pipeline.fetch(message["request_id"])
    # The median: a single one may be late because this machine had something else to do.
    assert sorted(delays)[len(delays) // 2] < 0.020


def test_a_busy_worker_claims_one_batch_ahead_and_leaves_the_rest_to_others(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    requests = [send(pipeline, "long", seed) for seed in range(9)]
    busy = start_worker(STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=2)
    wait_until(lambda: processing(client) == 4, "one batch is computed and one is claimed ahead")
    assert client.llen(LONG) == 5
    start_worker(INPAINTING_BATCH_SIZE_LONG=2)
    for request in requests[4:]:
        pipeline.fetch(request)
    assert processing(client) == 4
    hold.unlink()
    for request in requests[:4]:
        pipeline.fetch(request)
    wait_until_idle(client)
    assert busy.stop() == 0


def test_a_result_is_written_while_the_one_before_waits_to_be_committed(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    requests = [send(pipeline, "long", seed) for seed in range(2)]
    worker = start_worker(STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1)
    identity = worker_id(client, worker)
    wait_until(lambda: worker.output.count("taken from") == 2, "one job is loaded ahead")
    client.client_pause(60_000, all=False)  # nothing is written to Redis meanwhile
    try:
        hold.unlink()
        wait_until(
            lambda: sum(identity in name for name in segments()) == 2, "both results are written"
        )
        assert not list(client.scan_iter("inpainting_result:*"))
    finally:
        client.client_unpause()
    for request in requests:
        pipeline.fetch(request)
    assert worker.stop() == 0


# -- stopping ---------------------------------------------------------------------------------


def test_sigterm_mid_batch_delivers_it_and_puts_the_rest_back_in_order(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    requests = [send(pipeline, "long", seed) for seed in range(8)]
    worker = start_worker(STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=2)
    wait_until(lambda: processing(client) == 4, "a batch is computed and one is claimed ahead")
    worker.send_signal(signal.SIGTERM)
    worker.wait_for_line("no more claims")
    hold.unlink()
    assert worker.wait() == 0
    for request in requests[:2]:
        pipeline.fetch(request)
    queued = [json.loads(payload)["request_id"] for payload in client.lrange(LONG, 0, -1)]
    assert queued == requests[2:]
    assert sorted(client.scan_iter()) == sorted(
        [
            LONG.encode(),
            *client.scan_iter("inpainting:segments:*"),
            *client.scan_iter(keys.CREWS),
            keys.SUBMISSIONS.encode(),  # the order of what is back in the queue
        ]
    )
    client.delete(LONG)
    pipeline.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_stops_at_once_and_leaves_no_key(
    start_worker: StartWorker, client: redis.Redis, number: int
) -> None:
    worker = start_worker()
    began = time.monotonic()
    assert worker.stop(number) == 0
    assert time.monotonic() - began < 1.5  # a claim blocks for two seconds by itself
    assert client.keys() == []


def test_a_job_that_waits_for_another_try_does_so_in_redis_and_a_stop_costs_nothing(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    worker = start_worker(RETRY_DELAY_S=1000, RETRY_DELAY_MAX_S=1000)
    message = pipeline.message(*page(60, 90, 1), "long", canvas=CANVAS)
    message["preprocessed_mask_shm_info"]["shm_name"] = "mask_shm_missing"
    payload = pipeline.push(message, "long")
    worker.wait_for_line("is tried again in 1000 s")
    wait_until(lambda: client.exists(keys.delayed(LONG)), "it waits")
    assert processing(client) == 0
    assert worker.stop() == 0
    assert client.zrange(keys.delayed(LONG), 0, -1) == [payload]
    pipeline.close()


def test_a_stop_puts_back_what_was_claimed_without_a_reply(
    start_worker: StartWorker, client: redis.Redis
) -> None:
    worker = start_worker(HEARTBEAT_INTERVAL_S=100, HEARTBEAT_TTL_S=200)
    wait_until(lambda: client.info("clients")["blocked_clients"] == 2, "the worker waits for jobs")
    client.rpush(f"inpainting:processing:{worker_id(client, worker)}:long", b"unheard")
    assert worker.stop() == 0
    assert client.lrange(LONG, 0, -1) == [b"unheard"]
    assert list(client.scan_iter()) == [LONG.encode()]


def test_an_idle_worker_stops_at_once_while_redis_is_away(start_worker: StartWorker) -> None:
    with RedisServer() as server:
        worker = start_worker(REDIS_URL=server.url)
        server.stop()
        worker.wait_for_line("cannot be used")
        assert worker.stop() == 0


def test_a_second_signal_stops_at_once_and_loses_nothing(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    worker = start_worker(STUB_HOLD=make_hold())
    send(pipeline, "long")
    worker.wait_for_line("taken from")
    worker.send_signal(signal.SIGTERM)
    worker.wait_for_line("no more claims")
    assert worker.stop() == 128 + signal.SIGTERM
    assert client.llen(LONG) == 1
    assert not client.exists(keys.ATTEMPTS)
    assert not list(client.scan_iter("inpainting:workers:*"))
    pipeline.close()


def test_a_batch_that_outlasts_the_grace_is_given_back_without_an_attempt(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    worker = start_worker(STUB_HOLD=make_hold(), SHUTDOWN_GRACE_S=0.2)
    send(pipeline, "long")
    worker.wait_for_line("taken from")
    assert worker.stop() == 1
    assert "SHUTDOWN_GRACE_S=0.2" in worker.output
    assert client.llen(LONG) == 1
    assert processing(client) == 0
    assert not client.exists(keys.ATTEMPTS)
    assert not list(client.scan_iter("inpainting:worker:*"))
    pipeline.close()


def test_a_hung_inference_ends_the_process_and_is_an_attempt(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    worker = start_worker(STUB_HOLD=make_hold(), INFERENCE_TIMEOUT_S=0.2)
    send(pipeline, "long")
    assert worker.wait() == 1
    assert "INFERENCE_TIMEOUT_S=0.2" in worker.output
    assert client.zcard(keys.delayed(LONG)) == 1
    assert client.hvals(keys.ATTEMPTS) == [b"1"]
    pipeline.close()


def test_a_network_that_makes_progress_is_not_hung(
    start_worker: StartWorker, pipeline: Pipeline, make_hold: Callable[[], Path]
) -> None:
    hold = make_hold()
    worker = start_worker(STUB_HOLD=hold, STUB_PROGRESS=1, INFERENCE_TIMEOUT_S=0.3)
    request = pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96))
    time.sleep(1.2)  # four times as long as a hung one has
    hold.unlink()
    assert pipeline.fetch(request).shape == (60, 90, 3)
    assert worker.stop() == 0


def test_a_worker_that_waits_for_redis_can_be_stopped(
    start_worker: StartWorker, client: redis.Redis
) -> None:
    worker = start_worker(REDIS_URL="redis://127.0.0.1:1", ready=False)
    worker.wait_for_line("redis://127.0.0.1:1 cannot be used")
    assert worker.stop() == 0


# -- bad input --------------------------------------------------------------------------------


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
    client: redis.Redis,
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
    assert len(left) >= 2  # kept for another try
    assert worker.poll() is None
    assert send_and_fetch(pipeline)
    pipeline.close()
    for name in left & segments():
        os.unlink(f"/dev/shm/{name}")


def test_a_queue_that_is_no_list_holds_up_neither_the_other_nor_itself_once_it_is_one(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    client.hset(LONG, "no", "list")
    start_worker()
    for seed in range(6):
        assert pipeline.fetch(send(pipeline, "short", seed=seed)).shape == (60, 90, 3)
    client.delete(LONG)
    assert pipeline.fetch(send(pipeline, "long")).shape == (60, 90, 3)


def test_a_job_that_killed_a_worker_takes_none_of_those_behind_it_with_it(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
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
    worker.wait_for_line("is tried again in 0.2 s (try 1 of 3)")
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


# -- Redis comes and goes -----------------------------------------------------------------------


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
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    worker = start_worker(HEARTBEAT_INTERVAL_S=0.2, HEARTBEAT_TTL_S=1)
    identity = worker_id(client, worker)
    image, mask = page(60, 90, 1)
    message = pipeline.message(image, mask, "long", canvas=CANVAS)
    client.rpush(f"inpainting:processing:{identity}:long", json.dumps(message))
    assert pipeline.fetch(message["request_id"]).shape == image.shape
    worker.wait_for_line("took up 1 jobs")


def test_a_worker_presumed_dead_registers_again_and_discards_what_it_lost(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
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
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis
) -> None:
    worker = start_worker(DELIVERY="at_most_once")
    assert "a crash loses what is computed and read ahead" in worker.output
    for kind in ("long", "short", "long"):
        assert pipeline.fetch(send(pipeline, kind)).shape == (60, 90, 3)
    client.rpush(SHORT, b"bad")
    wait_until(lambda: dead_entries(client), "the bad job is dead")
    assert worker.stop() == 0
    assert client.keys("inpainting:processing:*") == []
