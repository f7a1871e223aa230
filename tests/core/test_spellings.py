"""Messages as senders really write them: each gives the picture that the plain one gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from core import keys
from core.claims import Claim
from core.config import Settings
from core.keys import Kind
from core.pixels.stages import Loader
from harness.jobs import CANVAS, dead_entries
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import LONG, Json, Pipeline, encode, page
from harness.workers import StartWorker, segments
from tests.core.support import take, wait_until_idle

IMAGE, MASK = "preprocessed_img_shm_info", "preprocessed_mask_shm_info"
SIZE = (60, 90)

Change = Callable[[Pipeline, Json], object]


def segment(name: str, **fields: Any) -> Change:
    """Replaces fields of a segment's description."""
    return lambda _, message: message[name].update(fields)


def fields(**values: Any) -> Change:
    """Replaces fields of the message."""
    return lambda _, message: message.update(values)


def slashes(_: Pipeline, message: Json) -> None:
    for which in (IMAGE, MASK, "original_shm_info"):
        message[which]["shm_name"] = f"/{message[which]['shm_name']}"


def pages(page_bytes: int) -> Change:
    """Rounds sizes up, as some systems do."""

    def change(_: Pipeline, message: Json) -> None:
        for which in (IMAGE, MASK, "original_shm_info"):
            message[which]["size"] = -(-message[which]["size"] // page_bytes) * page_bytes

    return change


def floats(_: Pipeline, message: Json) -> None:
    for which in (IMAGE, MASK, "original_shm_info"):
        info = message[which]
        info |= {"shape": [float(side) for side in info["shape"]], "size": float(info["size"])}
    for name in ("original_size", "padding_info"):
        message[name] = [float(number) for number in message[name]]


def array_of(message: Json, which: str) -> np.ndarray:
    """What a segment of a plain message has."""
    info = message[which]
    return np.fromfile(f"/dev/shm/{info['shm_name']}", np.uint8).reshape(info["shape"])


def retyped(which: str, stored: str, written: str) -> Change:
    """Puts a segment's values in place as another type, which the message spells in some way."""

    def change(pipeline: Pipeline, message: Json) -> None:
        array = array_of(message, which)
        if np.dtype(stored) == np.bool_:
            array = array > 0
        message[which] = {**pipeline.put_array(array.astype(stored)), "dtype": written}

    return change


def channels(combine: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Makes the mask H×W×3."""

    def change(pipeline: Pipeline, message: Json) -> None:
        message[MASK] = pipeline.put_array(combine(array_of(message, MASK)))

    return change


def one_channel_each(mask: np.ndarray) -> np.ndarray:
    """Each third of the hole is in another channel."""
    thirds = np.arange(mask.shape[1])[None] % 3
    return np.stack([np.where(thirds == third, mask, 0) for third in range(3)], axis=2)


def equal_channels(mask: np.ndarray) -> np.ndarray:
    return np.repeat(mask[..., None], 3, axis=2)


#: Changes after which the pixels are converted when they are read.
CONVERTED: dict[str, Change] = {
    **{
        f"{which} of {written}": retyped(which, stored, written)
        for which in (IMAGE, MASK)
        for stored, written in [
            *(("<f4", "<f4"), ("=f4", "=f4"), ("f4", "float32"), ("f4", "f"), ("f4", "f4")),
            *((">f4", ">f4"), (">f8", ">f8"), (">f2", ">f2"), ("<f2", "e"), ("<f8", "double")),
        ]
    },
    **{f"mask of {written}": retyped(MASK, "?", written) for written in ("|b1", "?", "bool_")},
    "equal channels": channels(equal_channels),
    "one channel each": channels(one_channel_each),
    "channels of floats": channels(lambda mask: equal_channels(mask).astype(np.float32)),
    "channels of bool": channels(lambda mask: one_channel_each(mask) > 0),
}

CHANGES: dict[str, Change] = {
    "slashes": slashes,
    "whole floats": floats,
    **{f"pages of {size}": pages(size) for size in (4096, 16_384, 65_536)},
    **{
        f"{which} of {written}": segment(which, dtype=written)
        for which in (IMAGE, MASK)
        for written in ("|u1", "<u1", ">u1", "=u1", "u1", "B", "ubyte")
    },
    "is_long 1": fields(is_long=1),
    "is_long 0": fields(is_long=0),
    "is_long 1.0": fields(is_long=1.0),
    **{
        f"is_long {text!r}": fields(is_long=text)
        for text in ("true", "True", "false", "False", "1", "0")
    },
    "a number as request": fields(request_id=12_345),
    "a negative number as request": fields(request_id=-7),
    "a long number as request": fields(request_id=2**70 + 1),
    "a number as image": fields(image_id=17),
    **CONVERTED,
}


@pytest.mark.parametrize("threshold", [0, 127])
@pytest.mark.parametrize("staging", [{}, {"STUB_STAGING": 1}], ids=["here", "staged"])
def test_each_spelling_gives_the_picture_of_the_plain_message(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    threshold: int,
    staging: dict[str, int],
) -> None:
    image, mask = page(*SIZE, 1)
    mask[:5] = np.arange(90) * 2  # grey, as resizing leaves it
    worker = start_worker(MASK_THRESHOLD=threshold)
    plain = pipeline.submit(image, mask, "long", canvas=CANVAS, original=True)
    expected = pipeline.fetch(plain)
    assert not np.array_equal(expected, image)

    if staging:
        assert worker.stop() == 0
        start_worker(MASK_THRESHOLD=threshold, **staging)
    requests = {}
    for name, change in CHANGES.items():
        if staging and name in CONVERTED:
            continue  # see test_staging.py: the stub wants what is staged to lie in its own memory
        if "bool" in name or "?" in name or "b1" in name:
            message = pipeline.message(
                image, np.where(mask > threshold, mask, 0), "long", canvas=CANVAS, original=True
            )
        else:
            message = pipeline.message(image, mask, "long", canvas=CANVAS, original=True)
        change(pipeline, message)
        pipeline.push(message, "long")
        requests[name] = message
    for name, message in requests.items():
        result = pipeline.result(str(message["request_id"]))
        assert result["status"] == "done", (name, result)
        assert result["image_id"] == str(message["image_id"]), name
        assert np.array_equal(take(result), expected), name
    wait_until_idle(client)
    for name, message in requests.items():
        for which in (IMAGE, MASK):
            assert message[which]["shm_name"].lstrip("/") not in segments(), name
    assert not client.exists(keys.SUBMISSIONS, keys.ATTEMPTS)


@pytest.mark.parametrize("number", [12_345, -3, 2**70 + 1])
def test_a_numeric_request_that_is_sent_again_replaces_the_older_result(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, number: int
) -> None:
    start_worker()
    for image_id in ("older.jpg", "newer.jpg"):
        message = pipeline.message(*page(*SIZE, 1), "long", canvas=CANVAS, image_id=image_id)
        message["request_id"] = number
        pipeline.push(message, "long")
        wait_until(
            lambda: (
                client.hget(f"inpainting_result:{number}", "image_id") == image_id.encode()  # noqa: B023
            ),
            f"the result of {image_id} is out",
        )
        wait_until_idle(client)
    wait_until(lambda: len(segments()) == 1, "the older result is unlinked")
    pipeline.fetch(str(number))
    assert not client.exists(keys.SUBMISSIONS)


def damaged(message: Json, how: str) -> bytes:
    """A message that no worker accepts, and from which its request can be read."""
    whole = json.dumps(message).encode()
    start, place = whole[:-1], whole.index(b'"padding_info"')
    return {
        "cut off": whole[: place + 20],
        "in Latin-1": start + b', "by": "caf\xe9"}',
        "in UTF-16": json.dumps(message).encode("utf-16"),
        "with a byte-order mark": b"\xef\xbb\xbf" + whole,
        "with a trailing comma": start + b",}",
        "with a second object": whole + whole,
        "with NaN": start + b', "x": NaN}',
        "nested too deeply": start + b', "x": ' + b"[" * 100_000 + b"}",
        "too long": start + b', "x": "' + b"x" * 2_000_000 + b'"}',
    }[how]


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_what_is_damaged_is_told_to_its_request(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, delivery: str
) -> None:
    start_worker(DELIVERY=delivery)
    for how in (
        *("cut off", "in Latin-1", "in UTF-16", "with a byte-order mark", "with a trailing comma"),
        *("with a second object", "with NaN", "nested too deeply", "too long"),
    ):
        message: Json = {"request_id": f"request {how}", "image_id": "i", "padding_info": [0] * 4}
        pipeline.push(damaged(message, how), "long")
        result = pipeline.result(message["request_id"])
        assert result["reason"] == ("too_long" if how == "too long" else "bad_json"), how
        assert result["image_id"] == "i"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (fields(request_id=7.5), "bad_field"),
        (fields(image_id=7.0), "bad_field"),
        (fields(image_id=True), "bad_field"),
        (fields(is_long="maybe"), "bad_field"),
        (fields(is_long=2), "bad_field"),
        (fields(is_long=...), "bad_field"),
        (fields(original_size=[60.5, 90]), "bad_field"),
        (fields(padding_info=["0"] * 4), "bad_field"),
        (segment(IMAGE, dtype=">f16"), "bad_dtype"),
        (segment(IMAGE, dtype="<u2"), "bad_dtype"),
        (segment(IMAGE, dtype="|i1"), "bad_dtype"),
        (segment(IMAGE, size=CANVAS[0] * CANVAS[1] * 3 + 1), "size_mismatch"),
        (segment(IMAGE, size=str(CANVAS[0] * CANVAS[1] * 3)), "size_mismatch"),
        (segment(IMAGE, shm_name="//img_shm_x"), "bad_name"),
        (segment(IMAGE, shm_name="/dev/shm/img_shm_x"), "bad_name"),
        (channels(lambda mask: np.repeat(mask[..., None], 4, axis=2)), "bad_shape"),
        (channels(lambda mask: np.repeat(mask[..., None], 2, axis=2)), "bad_shape"),
    ],
)
def test_what_is_refused_is_told_to_its_request(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    change: Change,
    reason: str,
) -> None:
    message = pipeline.message(*page(*SIZE, 1), "long", canvas=CANVAS)
    change(pipeline, message)
    message = {name: value for name, value in message.items() if value is not ...}
    pipeline.push(message, "long")
    start_worker()
    assert pipeline.result(str(message["request_id"]))["reason"] == reason
    assert dead_entries(client)[0]["reason"] == reason


# -- "done" is not said of a picture in which nothing was erased ---------------------------------


def load(pipeline: Pipeline, message: Json, **settings: Any) -> Any:
    """What the first stage makes of a message."""
    loader = Loader(Settings(_env_file=None, **settings))
    return loader(Claim(Kind.LONG, encode(message)))


@pytest.mark.parametrize("dtype", ["uint8", "float32", ">f8"])
@pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=["H×W", "H×W×1", "H×W×3"])
def test_a_mask_of_0_and_1_that_the_threshold_would_empty_is_refused_with_what_to_do(
    start_worker: StartWorker,
    pipeline: Pipeline,
    dtype: str,
    shape: tuple[int, ...],
) -> None:
    image, mask = page(*CANVAS, 1)
    ones = np.ones((*CANVAS, *shape), dtype) * (mask > 0).reshape(*CANVAS, *[1] * len(shape))
    message = pipeline.message(image, mask, "long", canvas=CANVAS)
    message[MASK] = pipeline.put_array(ones.astype(dtype))
    pipeline.push(message, "long")
    start_worker(MASK_THRESHOLD=127)
    result = pipeline.result(message["request_id"])
    assert result["reason"] == "bad_values"
    assert "MASK_THRESHOLD=127: send 255 where a hole is" in result["error"]


def test_a_mask_of_0_and_1_has_its_holes_without_a_threshold(pipeline: Pipeline) -> None:
    image, mask = page(*CANVAS, 1)
    message = pipeline.message(image, (mask > 0).astype(np.uint8), "long", canvas=CANVAS)
    assert np.array_equal(load(pipeline, message).mask > 0, mask > 0)
    message[MASK] = pipeline.put_array((mask > 0) * np.float32(0.25))
    assert np.array_equal(load(pipeline, message).mask > 0, mask > 0)


def test_another_mask_below_the_threshold_is_done_and_warned_about(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    image, mask = page(*CANVAS, 1)
    worker = start_worker(MASK_THRESHOLD=127)
    request = pipeline.submit(image, np.minimum(mask, 127), "long", canvas=CANVAS)
    assert np.array_equal(pipeline.fetch(request), image)
    worker.wait_for_line(
        f"request {request} has no hole: its mask has values up to 127, none above "
        "MASK_THRESHOLD=127"
    )
    empty = pipeline.submit(image, mask * 0, "long", canvas=CANVAS)
    assert np.array_equal(pipeline.fetch(empty), image)
    assert f"request {empty} has no hole" not in worker.output


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64"])
@pytest.mark.parametrize("highest", [0.25, 1, 1.5])
def test_a_picture_on_the_scale_from_0_to_1_is_refused_with_what_to_do(
    start_worker: StartWorker, pipeline: Pipeline, dtype: str, highest: float
) -> None:
    image, mask = page(*CANVAS, 1)
    message = pipeline.message(image, mask, "long", canvas=CANVAS)
    scaled = image / image.max() * highest
    message[IMAGE] = pipeline.put_array(scaled.astype(dtype))
    pipeline.push(message, "long")
    start_worker()
    result = pipeline.result(message["request_id"])
    assert result["reason"] == "bad_values"
    assert f"to {highest:g}, which is black" in result["error"]
    assert "multiply a picture on the scale of 0 to 1 by 255" in result["error"]


@pytest.mark.parametrize("value", [0.0, 2.0, 255.0])
def test_a_plain_picture_of_floats_is_no_picture_on_the_scale_from_0_to_1(
    pipeline: Pipeline, value: float
) -> None:
    image, mask = page(*CANVAS, 1)
    message = pipeline.message(image, mask, "long", canvas=CANVAS)
    message[IMAGE] = pipeline.put_array(np.full((*CANVAS, 3), value, np.float32))
    assert (load(pipeline, message).image == value).all()


def test_a_message_in_several_spellings_at_once_is_done(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    image, mask = page(*SIZE, 1)
    start_worker()
    expected = pipeline.fetch(pipeline.submit(image, mask, "long", canvas=CANVAS, original=True))
    message = pipeline.message(image, mask, "long", canvas=CANVAS, original=True)
    message["request_id"] = 5
    for change in (channels(equal_channels), pages(4096), floats, slashes, fields(is_long="true")):
        change(pipeline, message)
    for which in (IMAGE, MASK):
        message[which]["dtype"] = "|u1"
    client.rpush(LONG, encode(message))
    assert np.array_equal(pipeline.fetch("5"), expected)
