"""The client side of the contract: prepare a picture, submit it and fetch the result.

Used by `python worker.py submit`, the demo and the benchmarks. It uses a worker as the pipeline's
own programs do, through the wire contract only.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

import cv2
import numpy as np
import redis

from core import keys
from core.broker.connection import sync_client
from core.broker.redis_errors import REDIS_ERRORS, cannot_be_used
from core.config import Settings
from core.contract import CANVAS, Segment
from core.errors import JobError, WorkerError
from core.keys import Kind
from core.pixels import shm
from core.pixels.arrays import Picture

POLL_S: Final = 0.02

#: Fields of a message whose segments the worker never unlinks.
ORIGINALS: Final = ("original_shm_info", "original_mask_shm_info")


class SubmitError(WorkerError):
    """A picture could not be submitted, or no result was returned."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture and its mask on the canvas, as the preprocessing stage sends them.

    `image` is RGB, `mask` grey, both of the canvas' size. `padding` is (top, right, bottom, left),
    `original_size` (height, width).
    """

    image: Picture
    mask: Picture
    padding: tuple[int, int, int, int]
    original_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Submission:
    """A submitted job.

    This program unlinks `segments` if the job fails, and `own`, some of them, in any case.
    """

    request_id: str
    kind: Kind
    payload: bytes
    segments: tuple[str, ...]
    own: tuple[str, ...]


def prepare(image: Picture, mask: Picture, kind: Kind) -> Prepared:
    """Letterbox a BGR picture (H×W×3) and its mask (H×W) into the canvas of a kind.

    Shrinks by area averaging if the picture is larger than the canvas, never enlarges, and pads all
    four sides by reflection without repeating the edge.
    """
    height, width = image.shape[:2]
    canvas_height, canvas_width = CANVAS[kind]
    scale = min(canvas_height / height, canvas_width / width, 1.0)
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image, mask = _shrink(image, size), _shrink(mask, size)
    spare_height, spare_width = canvas_height - image.shape[0], canvas_width - image.shape[1]
    top, left = spare_height // 2, spare_width // 2
    padding = (top, spare_width - left, spare_height - top, left)
    image, mask = _reflect(image, padding), _reflect(mask, padding)
    rgb = np.ascontiguousarray(image[..., ::-1])
    return Prepared(rgb, mask, padding, (height, width))


def as_it_is(image: Picture, mask: Picture) -> Prepared:
    """A BGR picture and its mask at their own size, without padding."""
    rgb = np.ascontiguousarray(image[..., ::-1])
    return Prepared(rgb, mask, (0, 0, 0, 0), (image.shape[0], image.shape[1]))


class Client:
    """Submits pictures and waits for their results.

    Use as a context manager: on exit it takes back the jobs whose results were not waited for.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = sync_client(settings.redis_url)
        self._open: dict[str, Submission] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        for submission in list(self._open.values()):
            self._take_back(submission)
        self._redis.close()

    def submit(
        self, image: Picture, mask: Picture, kind: Kind, image_id: str, full_size: bool = False
    ) -> Submission:
        """Put a BGR picture and its mask into shared memory and a job on the queue.

        They are letterboxed into the canvas of the kind, or sent as they are with `full_size`.
        The picture itself is sent as the original, with its mask, so that the result keeps its
        pixels outside the hole. Raises SubmitError if Redis or /dev/shm cannot take it. After an
        error or an interrupt nothing is left behind.
        """
        prepared = as_it_is(image, mask) if full_size else prepare(image, mask, kind)
        arrays = {
            "preprocessed_img_shm_info": prepared.image,
            "preprocessed_mask_shm_info": prepared.mask,
            "original_shm_info": image,
            "original_mask_shm_info": mask,
        }
        if full_size:  # the worker has this mask already
            del arrays["original_mask_shm_info"]
        segments = {
            field: Segment(f"img_shm_{uuid.uuid4().hex}", array.shape, array.dtype)
            for field, array in arrays.items()
        }
        submission = _submission(prepared, segments, kind, image_id)
        # Before anything is created, so that an interrupt at any point cleans up.
        self._open[submission.request_id] = submission
        try:
            for field, segment in segments.items():
                shm.write(segment.name, arrays[field], 0o600)
            self._redis.rpush(self._settings.queue(kind), submission.payload)
        except BaseException as error:
            self._discard(submission)
            if isinstance(error, (redis.RedisError, OSError, WorkerError)):
                text = f"the picture cannot be submitted: {self._said(error)}"
                raise SubmitError(text) from error
            raise
        return submission

    def wait(
        self, submission: Submission, timeout_s: float, given_up: threading.Event | None = None
    ) -> Picture:
        """The result as a BGR picture; its segment and its hash are removed.

        Raises SubmitError if the worker refuses the job, if Redis or the result cannot be read,
        or if there is no result in time or before `given_up` is set. After an error or an
        interrupt the job is taken back, unless a worker has it, and nothing else is left behind.
        """
        done = False
        try:
            fields = self._result(submission, timeout_s, given_up)
            done = True
            return self._fetch(submission, fields)
        except (redis.RedisError, OSError, JobError) as error:
            raise SubmitError(f"the result cannot be fetched: {self._said(error)}") from error
        finally:
            if done:
                self._close(submission, submission.segments)
            else:
                self._take_back(submission)

    def _said(self, error: Exception) -> str:
        """The text of an error, with the address if it is Redis'."""
        if isinstance(error, redis.RedisError):
            return cannot_be_used(self._settings.redis_url, error)
        return str(error)

    def _result(
        self, submission: Submission, timeout_s: float, given_up: threading.Event | None
    ) -> dict[bytes, bytes]:
        """Wait for the result's hash."""
        deadline = time.monotonic() + timeout_s
        key = keys.result(submission.request_id)
        while not (fields := cast("dict[bytes, bytes]", self._redis.hgetall(key))):
            if time.monotonic() > deadline:
                raise SubmitError(
                    f"no result after {timeout_s:g} s: is a worker running on this Redis, in the "
                    f"same IPC namespace? The queue is {self._settings.queue(submission.kind)}"
                )
            if given_up is not None and given_up.is_set():
                raise SubmitError("given up: this worker is stopping")
            time.sleep(POLL_S)
        return fields

    def _fetch(self, submission: Submission, fields: dict[bytes, bytes]) -> Picture:
        key = keys.result(submission.request_id)
        if b"inpaint_shm_info" not in fields:
            self._redis.delete(key)
            error = fields.get(b"error", b"no reason given").decode("utf-8", "replace")
            raise SubmitError(f"the worker refused the job: {error}")
        info = json.loads(fields[b"inpaint_shm_info"])
        name, shape, dtype = info["shm_name"], tuple(info["shape"]), np.dtype(info["dtype"])
        try:
            self._redis.delete(key)
            picture, _ = shm.read(name, shape, dtype, {shm.owner(name)})  # any owner is allowed
        finally:
            _unlink([name])  # without its hash, no worker removes it
        return picture.astype(np.uint8, copy=False)

    def _take_back(self, submission: Submission) -> None:
        """Remove a job that still waits, and unlink this program's segments."""
        # If a worker has the job, or Redis does not answer, a worker unlinks the inputs.
        names = submission.own
        try:
            if self._withdraw(submission):
                names = submission.segments
        finally:
            self._close(submission, names)

    def _discard(self, submission: Submission) -> None:
        """Remove a job that may or may not have been sent, and all its segments."""
        try:
            self._withdraw(submission)
        finally:
            self._close(submission, submission.segments)

    def _withdraw(self, submission: Submission) -> bool:
        """Remove a job from its queue or from the delayed set; False if it is in neither."""
        queue = self._settings.queue(submission.kind)
        payload: Any = submission.payload
        with contextlib.suppress(*REDIS_ERRORS), self._redis.pipeline(transaction=True) as both:
            both.lrem(queue, 1, payload)
            both.zrem(keys.delayed(queue), payload)
            return any(both.execute())
        return False

    def _close(self, submission: Submission, names: tuple[str, ...]) -> None:
        _unlink(names)
        self._open.pop(submission.request_id, None)


def _submission(
    prepared: Prepared, segments: dict[str, Segment], kind: Kind, image_id: str
) -> Submission:
    request_id = uuid.uuid4().hex
    message = {
        "request_id": request_id,
        "image_id": image_id,
        "original_size": list(prepared.original_size),
        "padding_info": list(prepared.padding),
        "is_long": kind is Kind.LONG,
        **{field: json.loads(segment.to_json()) for field, segment in segments.items()},
    }
    names = tuple(segment.name for segment in segments.values())
    own = tuple(segment.name for field, segment in segments.items() if field in ORIGINALS)
    return Submission(request_id, kind, json.dumps(message).encode(), names, own)


def _unlink(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError):
            shm.unlink(name, {shm.owner(name)})


def suitable_kind(height: int, width: int) -> Kind:
    """The kind whose canvas shrinks a picture least."""

    def scale(kind: Kind) -> float:
        canvas_height, canvas_width = CANVAS[kind]
        return min(canvas_height / height, canvas_width / width)

    return max(Kind, key=scale)


def _shrink(image: Picture, size: tuple[int, int]) -> Picture:
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _reflect(image: Picture, padding: tuple[int, int, int, int]) -> Picture:
    top, right, bottom, left = padding
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REFLECT_101)  # type: ignore[return-value]
