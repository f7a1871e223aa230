"""A stand-in for the programs on either side of the worker, written from the wire contract alone.

It puts pictures into shared memory and pushes jobs; it waits for results and takes them. As a
program it checks a running worker: ``python harness/wire.py redis://localhost:6379 --count 4``
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import closing, suppress
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import redis

Kind = Literal["long", "short"]
Size = tuple[int, int]  # height, width, as everywhere on the wire
Array = np.ndarray
Json = dict[str, Any]
Event = tuple[str, dict[str, str]]  # its name, and the result hash as read on hearing of it

CANVAS: dict[Kind, Size] = {"long": (864, 1504), "short": (1024, 1024)}
LONG, SHORT = "lama_inference:longtasks", "lama_inference:shorttasks"
RESULT_KEY = "inpainting_result:"
DEV_SHM = Path("/dev/shm")


def _decode(fields: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _open(name: str, **create: Any) -> SharedMemory:
    """Open or create a segment that this process's resource tracker does not mind."""
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False, **create)
    segment = SharedMemory(name, **create)
    resource_tracker.unregister(segment._name, "shared_memory")  # type: ignore[attr-defined]
    return segment


def shm_info(name: str, shape: Sequence[int], dtype: str = "uint8") -> Json:
    """What a message says of a segment."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return {"shm_name": name, "shape": list(shape), "dtype": dtype, "size": size}


def write_segment(name: str, array: Array) -> Json:
    """Copy an array into a new segment; return its shm_info."""
    with closing(_open(name, create=True, size=array.nbytes)) as segment:
        np.ndarray(array.shape, array.dtype, buffer=segment.buf)[...] = array
    return shm_info(name, array.shape, str(array.dtype))


def job_message(
    request_id: str,
    image_info: Json,
    mask_info: Json,
    kind: Kind,
    *,
    image_id: str = "picture.jpg",
    original_size: Sequence[int] | None = None,
    padding_info: Sequence[int] = (0, 0, 0, 0),
) -> Json:
    """The message of a job; by default its picture is neither shrunk nor padded."""
    return {
        "request_id": request_id,
        "image_id": image_id,
        "original_size": list(original_size or image_info["shape"][:2]),
        "padding_info": list(padding_info),
        "preprocessed_img_shm_info": image_info,
        "preprocessed_mask_shm_info": mask_info,
        "is_long": kind == "long",
    }


def encode(message: Json) -> bytes:
    """A message as it is pushed."""
    return json.dumps(message, ensure_ascii=False).encode()


def page(height: int, width: int, seed: int) -> tuple[Array, Array]:
    """A synthetic product page (BGR) and its mask: the same for the same arguments."""
    rng = np.random.default_rng(seed)

    def box(low: float, high: float) -> tuple[slice, slice]:
        rows, columns = (max(1, int(side * rng.uniform(low, high))) for side in (height, width))
        top, left = rng.integers(0, (height - rows, width - columns), endpoint=True)
        return slice(top, top + rows), slice(left, left + columns)

    start, down, across = rng.uniform(0, 127, (3, 1, 1, 3))
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[:, None]
    image = (start * (2 - y - x) + down * y + across * x).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(3, 8)):
        image[box(0.05, 0.4)] = rng.integers(0, 256, 3)
    for _ in range(rng.integers(1, 4)):
        mask[hole := box(0.1, 0.25)] = 255
        image[hole][::3] = rng.integers(0, 256, 3)  # strokes, for the text to be removed
    return image, mask


class Pipeline:
    """The upstream and downstream programs in one; close it, or use it in a ``with``."""

    def __init__(self, redis_url: str, long_queue: str = LONG, short_queue: str = SHORT) -> None:
        self.redis: Any = redis.Redis.from_url(redis_url, decode_responses=False, protocol=2)
        self.queues: dict[Kind, str] = {"long": long_queue, "short": short_queue}
        self.heard: dict[str, list[Event]] = {}  # per result key, once listen() was called
        self._created: dict[str, int] = {}  # name -> inode: a name alone may be another's by now
        self._listener: Any = None
        self._channel = f"pipeline_marks:{uuid.uuid4().hex}"
        self._marks: set[bytes] = set()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlink what this object created and still exists, and close the connection."""
        for name, inode in self._created.items():
            path = DEV_SHM / name
            with suppress(FileNotFoundError):  # a worker may unlink it meanwhile
                if path.stat().st_ino == inode:
                    path.unlink()
        self._created.clear()
        if self._listener:
            self._listener.stop()
            self._listener.join()
        self.redis.close()

    @staticmethod
    def exists(shm_name: str) -> bool:
        """Whether a segment of this name exists."""
        return (DEV_SHM / shm_name).exists()

    @staticmethod
    def segments() -> set[str]:
        """The names of all segments on this machine that look like the pipeline's."""
        prefixes = ("img_shm_", "mask_shm_", "psm_")
        return {path.name for path in DEV_SHM.iterdir() if path.name.startswith(prefixes)}

    @staticmethod
    def prepare(
        image_bgr: Array, mask: Array, kind: Kind, *, canvas: Size | None = None
    ) -> tuple[Array, Array, list[int], list[int]]:
        """Letterbox: RGB picture, mask, padding (top, right, bottom, left), original size."""
        (height, width), (rows, columns) = image_bgr.shape[:2], canvas or CANVAS[kind]
        scale = min(rows / height, columns / width, 1)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (rows - size[0]) // 2, (columns - size[1]) // 2
        bottom, right = rows - size[0] - top, columns - size[1] - left

        def fit(picture: Array) -> Array:
            if scale < 1:
                picture = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
            return cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_REFLECT_101)

        rgb = cv2.cvtColor(fit(image_bgr), cv2.COLOR_BGR2RGB)
        mask = fit(mask).reshape(rows, columns, *mask.shape[2:])  # H×W×1 stays that
        return rgb, mask, [top, right, bottom, left], [height, width]

    @staticmethod
    def expected_restore(
        picture: Array, padding_info: list[int], original_size: list[int]
    ) -> Array:
        """Cut the padding off, then resize bilinearly where the size is not the original one."""
        (top, right, bottom, left), (height, width) = padding_info, picture.shape[:2]
        picture = picture[top : height - bottom, left : width - right]
        if picture.shape[:2] == tuple(original_size):
            return picture.copy()
        return cv2.resize(picture, tuple(original_size)[::-1], interpolation=cv2.INTER_LINEAR)

    def put_array(self, array: Array, prefix: str = "img_shm_", name: str | None = None) -> Json:
        """Copy an array into a new segment, hand its ownership over, return its shm_info."""
        name = name or f"{prefix}{uuid.uuid4().hex}"
        info = write_segment(name, array)
        self._created[name] = (DEV_SHM / name).stat().st_ino
        return info

    def message(
        self,
        image_bgr: Array,
        mask: Array,
        kind: Kind,
        *,
        request_id: str | None = None,
        image_id: str = "picture.jpg",
        canvas: Size | None = None,
        original: bool = False,
        original_mask: Array | None = None,
        mask_prefix: str = "img_shm_",
        **overrides: Any,
    ) -> Json:
        """Put a job's segments in place; return its message, less the fields given as ``...``."""
        rgb, mask, padding_info, original_size = self.prepare(image_bgr, mask, kind, canvas=canvas)
        fields = job_message(
            uuid.uuid4().hex if request_id is None else request_id,
            self.put_array(rgb),
            self.put_array(mask, mask_prefix),
            kind,
            image_id=image_id,
            original_size=original_size,
            padding_info=padding_info,
        )
        if original:
            fields["original_shm_info"] = self.put_array(image_bgr)
        if original_mask is not None:
            fields["original_mask_shm_info"] = self.put_array(original_mask)
        return {key: value for key, value in (fields | overrides).items() if value is not ...}

    def push(self, message: Json | bytes, kind: Kind) -> bytes:
        """Append a message, or raw bytes as they are, to a queue; return what was pushed."""
        if not isinstance(message, bytes):
            message = encode(message)
        self.redis.rpush(self.queues[kind], message)
        return message

    def submit(self, image_bgr: Array, mask: Array, kind: Kind, **options: Any) -> str:
        """Make and push a job (options as for ``message``); return its request_id."""
        message = self.message(image_bgr, mask, kind, **options)
        self.push(message, kind)
        return str(message["request_id"])

    def listen(self) -> None:
        """Record, from now on, every keyspace event on a result hash (see ``events``)."""
        if self._listener:
            return
        [flags] = self.redis.config_get("notify-keyspace-events").values()
        self.redis.config_set("notify-keyspace-events", "".join(sorted({*flags, *"Eghx"})))
        database = self.redis.connection_pool.connection_kwargs.get("db") or 0
        pubsub = self.redis.pubsub(ignore_subscribe_messages=True)
        pubsub.psubscribe(**{f"__keyevent@{database}__:*": self._hear})
        pubsub.subscribe(**{self._channel: lambda heard: self._marks.add(heard["data"])})
        self._listener = pubsub.run_in_thread(0.1, True, lambda error, ears, thread: thread.stop())
        self._catch_up()

    def _hear(self, heard: Json) -> None:
        key, name = heard["data"].decode(errors="replace"), heard["channel"].decode()
        if key.startswith(RESULT_KEY):
            event = name.split(":", 1)[1], _decode(self.redis.hgetall(heard["data"]))
            self.heard.setdefault(key, []).append(event)

    def _catch_up(self) -> None:
        """Wait until the listener has dealt with every event that has happened so far."""
        mark = uuid.uuid4().hex
        while mark.encode() not in self._marks:
            if not self._listener.is_alive():
                raise RuntimeError("the keyspace listener has stopped")
            self.redis.publish(self._channel, mark)  # again: it may not have subscribed yet
            time.sleep(0.001)

    def events(self, request_id: str) -> list[Event]:
        """All events on a request's result hash since ``listen``, oldest first."""
        self._catch_up()
        return list(self.heard.get(RESULT_KEY + request_id, ()))

    def result(self, request_id: str, timeout: float = 30) -> Json:
        """Wait for a hash with inpaint_shm_info, or status=failed; read, delete, decode it."""
        key, deadline = RESULT_KEY + request_id, time.monotonic() + timeout
        while True:
            fields = _decode(self.redis.hgetall(key))
            if "inpaint_shm_info" in fields or fields.get("status") == "failed":
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"no result for {request_id} in {timeout} s (hash: {fields})")
            time.sleep(0.005)
        if self._listener:
            self._catch_up()  # it reads the hash too, so it must come first
        with self.redis.pipeline() as both:  # so that a newer one is not lost
            result: Json = {**_decode(both.hgetall(key).delete(key).execute()[0])}
        if "inpaint_shm_info" in result:
            result["inpaint_shm_info"] = json.loads(result["inpaint_shm_info"])
        return result

    def fetch(self, request_id: str, timeout: float = 30) -> Array:
        """Wait for a result, take its BGR picture, unlink it; RuntimeError if the job failed."""
        result = self.result(request_id, timeout)
        if result.get("status") == "failed":
            raise RuntimeError(result.get("error") or f"failed: {result}")
        info = result["inpaint_shm_info"]
        shape, dtype = tuple(info["shape"]), np.dtype(info["dtype"])
        with closing(_open(info["shm_name"])) as segment:
            (DEV_SHM / info["shm_name"]).unlink(missing_ok=True)  # the mapping stays
            if int(np.prod(shape)) * dtype.itemsize != info["size"]:
                raise ValueError(f"size does not agree with shape and dtype: {info}")
            return np.ndarray(shape, dtype, buffer=segment.buf).copy()


def check(pipeline: Pipeline, image: Array, mask: Array, kind: Kind, message: Json) -> list[str]:
    """Take a job's result and compare it with what was sent; return what is wrong."""
    try:
        picture = pipeline.fetch(message["request_id"], timeout=120)
    except (OSError, RuntimeError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]
    if picture.shape != image.shape or picture.dtype != np.uint8:
        return [f"got {picture.dtype} {picture.shape}"]
    rgb, small, *place = pipeline.prepare(image, mask, kind)
    expected = pipeline.expected_restore(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), *place)
    hole = pipeline.expected_restore(np.where(small > 0, 255, 0).astype(np.uint8), *place) > 0
    change = int(cv2.absdiff(picture, expected)[~hole].max(initial=0))
    wrong = [f"changed by {change} outside the hole"] if change > 2 else []
    names = [message[f"preprocessed_{part}_shm_info"]["shm_name"] for part in ("img", "mask")]
    deadline = time.monotonic() + 1
    while left := [name for name in names if pipeline.exists(name)]:
        if time.monotonic() > deadline:
            return [*wrong, f"not unlinked within a second: {', '.join(left)}"]
        time.sleep(0.01)
    return wrong


def main() -> int:
    """Send pages of both kinds through a running worker; 1 if anything came back wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("redis_url", metavar="REDIS_URL")
    parser.add_argument("--count", type=int, default=4, metavar="N", help="pages of each kind")
    options, jobs, failures = parser.parse_args(), [], 0
    with Pipeline(options.redis_url) as pipeline:
        for number, kind in ((n, kind) for n in range(options.count) for kind in CANVAS):
            image, mask = page(250 + 350 * number % 1400, 860 + 420 * (number % 3), number)
            jobs.append((image, mask, kind, pipeline.message(image, mask, kind)))
            pipeline.push(jobs[-1][-1], kind)
        for image, mask, kind, message in jobs:
            wrong = check(pipeline, image, mask, kind, message)
            failures += bool(wrong)
            height, width = message["original_size"]
            print(f"{message['request_id']} {kind} {width}×{height}: {'; '.join(wrong) or 'ok'}")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
