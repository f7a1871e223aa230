"""What the status page shows, and what it may do: dead jobs, pictures, trials."""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from core.broker.dead_job import HEAD_BYTES, write_entry
from core.pixels import shm
from harness.admin import OWN_PAGE, PORT, Admin, Reply
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import Pipeline, page
from harness.workers import StartWorker, segments

SECRET = "correct horse"
TOKEN = {"Authorization": f"Bearer {SECRET}"}


def png(picture: Any) -> str:
    done, data = cv2.imencode(".png", picture)
    assert done
    return base64.b64encode(data.tobytes()).decode()


def try_picture(admin: Admin, image: Any, mask: Any, **fields: Any) -> Reply:
    return admin.ask(
        "/api/try", {"image": png(image), "mask": png(mask), "name": "a.png", **fields}, **OWN_PAGE
    )


def test_a_dead_job_is_retried_and_discarded_from_the_page(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT, ADMIN_TOKEN=SECRET, MAX_ATTEMPTS=1))
    request = pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96), image_id="explode.jpg")
    wait_until(lambda: admin.status["dead"], "it is dead")
    (dead,) = admin.status["dead"]
    assert dead["request_id"] == request
    assert dead["reason"] == "inference_failed"
    assert dead["refusal"] == ""
    assert admin.ask("/api/dead/retry", {"ids": [dead["id"]]}, **TOKEN).json["retried"] == 1
    wait_until(lambda: admin.metrics()["inpainting_jobs_total", "dead", "short"] == 2, "dead again")
    (again,) = admin.status["dead"]
    assert admin.ask("/api/dead/retry", {"ids": [dead["id"]]}, **TOKEN).json["retried"] == 0 or (
        again["id"] == dead["id"]
    )
    wait_until(lambda: len(admin.status["dead"]) == 1, "one is dead")
    (again,) = admin.status["dead"]
    assert admin.ask("/api/dead/discard", {"ids": [again["id"]]}, **TOKEN).json["discarded"] == 1
    assert admin.status["dead"] == []
    assert not segments()


def test_many_requests_for_the_page_read_the_ends_of_long_messages_seldom(
    start_worker: StartWorker, client: RedisClient
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    payload = json.dumps({"request_id": "r" * 1000, "text": "x" * 900_000}).encode()
    queue = "lama_inference:longtasks"
    client.rpush("inpainting:dead", *[write_entry(payload, reason="r", queue=queue)] * 60)
    before = int(client.info("stats")["total_net_output_bytes"])
    began = time.monotonic()
    for _ in range(30):
        reply = admin.ask("/api/status")
        assert len(reply.json["dead"]) == 50
        assert len(reply.body) < 100_000
    reads = 1 + int(time.monotonic() - began)
    sent = int(client.info("stats")["total_net_output_bytes"]) - before
    assert sent < (reads + 1) * 50 * (HEAD_BYTES + 1000)


def test_the_history_has_a_row_every_two_seconds_and_is_told_piece_by_piece(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    pipeline.fetch(pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96)))
    wait_until(lambda: sum(admin.status["history"]["columns"]["done"]) == 1, "it is in the history")
    first = admin.status["history"]
    assert first["number"] == len(first["columns"]["at"])
    assert first["columns"]["p50_s"][-1] > 0
    wait_until(lambda: admin.status["history"]["number"] > first["number"], "there is another row")
    more = admin.ask(f"/api/status?after={first['number']}").json["history"]
    assert len(more["columns"]["at"]) == more["number"] - first["number"]
    assert more["columns"]["at"][0] > first["columns"]["at"][-1]
    # A page that was open before the worker was restarted begins anew.
    anew = admin.ask("/api/status?after=999999").json["history"]
    assert len(anew["columns"]["at"]) == anew["number"]


def test_secrets_are_not_told(start_worker: StartWorker, client: RedisClient) -> None:
    client.execute_command("ACL", "SETUSER", "ann", "on", ">hushhush", "~*", "+@all")
    url = f"redis://ann:hushhush@127.0.0.1:{client.connection_pool.connection_kwargs['port']}"
    try:
        admin = Admin(start_worker(ADMIN_PORT=PORT, ADMIN_TOKEN=SECRET, REDIS_URL=url))
        told = admin.ask("/api/status").text + admin.ask("/metrics").text
        assert "hushhush" not in told
        assert SECRET not in told
        named = {one["name"]: one["value"] for one in admin.status["settings"]}
        assert named["ADMIN_TOKEN"] == "(set)"
        assert named["REDIS_URL"].startswith("redis://***@127.0.0.1")
    finally:
        client.execute_command("ACL", "DELUSER", "ann")


def inputs_of(payload: bytes) -> list[str]:
    """The segments that a message names."""
    message = json.loads(payload)
    return [value["shm_name"] for name, value in message.items() if name.endswith("_shm_info")]


def test_a_dark_colour_of_a_tried_mask_is_a_hole(start_worker: StartWorker) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    image, mask = page(200, 300, 3)
    dark = np.zeros((*mask.shape, 3), np.uint8)
    dark[mask > 0] = (3, 0, 0)
    answer = try_picture(admin, image, dark).json
    result = cv2.imdecode(np.frombuffer(base64.b64decode(answer["image"]), np.uint8), 1)
    assert result is not None
    assert (result[cv2.erode(mask, np.ones((9, 9))) > 0] == 128).all()


def test_a_tried_picture_comes_back_filled_and_leaves_nothing(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, make_hold: Any
) -> None:
    hold = make_hold()
    admin = Admin(start_worker(ADMIN_PORT=PORT, STUB_HOLD=hold))
    image, mask = page(200, 300, 3)
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(try_picture, admin, image, mask)
        wait_until(lambda: client.keys("inpainting:processing:*"), "it is in hand")
        (processing,) = client.keys("inpainting:processing:*")
        inputs = inputs_of(client.lindex(processing, 0))
        hold.unlink()
        reply = trying.result()
    assert reply.status == 200, reply.text
    answer = reply.json
    result = cv2.imdecode(np.frombuffer(base64.b64decode(answer["image"]), np.uint8), 1)
    assert result is not None
    assert result.shape == image.shape
    hole = mask > 0
    assert np.array_equal(result[~hole], image[~hole])
    assert (result[cv2.erode(mask, np.ones((9, 9))) > 0] == 128).all()  # the stub's grey
    assert answer["batch"]["size"] == 1
    assert 0 < answer["batch"]["infer_s"] < answer["total_s"]
    (note,) = admin.status["batches"]
    assert note["request_ids"] == [answer["request_id"]]
    assert len(inputs) == 3
    wait_until(lambda: not any(map(pipeline.exists, inputs)), "its inputs are gone")
    assert not segments()
    assert client.keys("inpainting_result:*") == []


def bomb(width: int, height: int) -> str:
    """A PNG that is small, and says it is large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    content += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return base64.b64encode(content).decode()


def test_what_cannot_be_tried_is_told_why(start_worker: StartWorker, client: RedisClient) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    image, mask = png(np.zeros((9, 9, 3), np.uint8)), png(np.ones((9, 9), np.uint8))
    bad: list[tuple[dict[str, Any], str]] = [
        ({"image": "!"}, "image is not a PNG in base64"),
        ({"image": base64.b64encode(b"GIF89a" * 20).decode()}, "image is not a PNG in base64"),
        ({"image": bomb(60_000, 60_000)}, "MAX_IMAGE_PIXELS"),
        ({"image": bomb(2**31, 2**31)}, "MAX_IMAGE_PIXELS"),
        ({"image": bomb(0, 0)}, "not a PNG that OpenCV can read"),
        ({"mask": png(np.zeros((5, 5), np.uint8))}, "must have the same size"),
        ({"kind": "square"}, "kind must be auto, long or short"),
    ]
    for fields, complaint in bad:
        reply = admin.ask("/api/try", {"image": image, "mask": mask, **fields}, **OWN_PAGE)
        assert reply.status == 400
        assert complaint in reply.json["error"]
    assert not client.keys("*tasks")


def test_a_try_that_no_worker_gets_to_before_the_stop_is_taken_back(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, make_hold: Any
) -> None:
    hold = make_hold()
    worker = start_worker(ADMIN_PORT=PORT, STUB_HOLD=hold, INPAINTING_BATCH_SIZE_SHORT=1)
    admin = Admin(worker)
    held = [pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96)) for _ in range(2)]
    wait_until(lambda: admin.status["worker"]["in_flight"] == 2, "there is no room")
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(try_picture, admin, *page(60, 90, 1), kind="short")
        wait_until(lambda: client.llen(pipeline.queues["short"]) == 1, "the try waits")
        inputs = inputs_of(client.lindex(pipeline.queues["short"], 0))
        assert all(map(pipeline.exists, inputs))
        worker.send_signal(signal.SIGTERM)
        admin.wait_for("/readyz", 503)
        hold.unlink()
        assert worker.wait() == 0
        # Either it was told, or its connection ended with the process.
        assert trying.exception() or "given up" in trying.result().text
    assert pipeline.fetch(held[0]).shape == (60, 90, 3)
    (left,) = client.lrange(pipeline.queues["short"], 0, -1)  # the one that was claimed ahead
    assert held[1].encode() in left
    assert not any(map(pipeline.exists, inputs))


def test_a_try_is_given_up_when_the_device_breaks(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Any,
    tmp_path: Any,
) -> None:
    hold, broken = make_hold(), tmp_path / "broken"
    worker = start_worker(ADMIN_PORT=PORT, STUB_HOLD=hold, STUB_BROKEN=broken)
    admin = Admin(worker)
    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(try_picture, admin, *page(60, 90, 1), kind="short")
        wait_until(lambda: client.keys("inpainting:processing:*"), "it is in hand")
        (processing,) = client.keys("inpainting:processing:*")
        *inputs, original = inputs_of(client.lindex(processing, 0))
        broken.touch()
        hold.unlink()
        assert worker.wait() == 1
        assert trying.exception() or "given up" in trying.result().text
    assert not pipeline.exists(original)
    shm.unlink_all(inputs, {os.geteuid()})  # with its job they were the next worker's


def test_previews_are_shown_only_where_they_are_wanted(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    pipeline.fetch(pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96)))
    assert admin.status["previews"] == []
    assert admin.ask("/api/preview?number=1&side=after").status == 404


def test_a_preview_is_the_picture_before_and_after(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT, STATUS_PREVIEWS=1))
    image, mask = page(300, 1500, 1)
    done = pipeline.fetch(pipeline.submit(image, mask, "long", image_id="wide.jpg"))
    (preview,) = admin.status["previews"]
    assert preview["image_id"] == "wide.jpg"
    for side, expected in (("before", image), ("after", done)):
        reply = admin.ask(f"/api/preview?number={preview['number']}&side={side}")
        assert reply.headers["Content-Type"] == "image/jpeg"
        shown = cv2.imdecode(np.frombuffer(reply.body, np.uint8), 1)
        assert shown is not None
        assert shown.shape == (144, 720, 3)
        small = cv2.resize(expected, (720, 144), interpolation=cv2.INTER_AREA)
        assert np.abs(shown.astype(int) - small).mean() < 6
    for number in ("0", "-1", "x", "", "9" * 5000):
        assert admin.ask(f"/api/preview?number={number}").status == 404
