"""Pictures from the status page, sent through the real queue like other jobs."""

from __future__ import annotations

import base64
import binascii
import json
import struct
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NoReturn

import cv2
import numpy as np

from core.admin.http import HttpError, Request, Response, json_response
from core.client import Client, SubmitError, suitable_kind
from core.client.windows import Filler, most_whole
from core.keys import Kind
from core.pixels.arrays import Picture
from core.telemetry import Watch
from core.telemetry.logs import number_of

TIMEOUT_S: Final = 120.0
LONGEST_NAME: Final = 200

_PNG: Final = b"\x89PNG\r\n\x1a\n"


class Trials:
    """Answers a request with the inpainted picture."""

    def __init__(self, connect: Callable[[], Client], max_image_pixels: int, watch: Watch) -> None:
        self._connect = connect
        self._max_image_pixels = max_image_pixels
        self._watch = watch
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Take back the jobs that no worker has claimed, and end all waits."""
        self._stopped.set()

    def __call__(self, request: Request) -> Response:
        """Inpaint `image` with `mask`, PNGs in base64; `kind` and `name` are optional."""
        fields = _fields(request.body)
        limit = self._max_image_pixels
        image = _decoded(fields, "image", cv2.IMREAD_COLOR, limit)
        # Grey would round dark colours to black.
        mask = _decoded(fields, "mask", cv2.IMREAD_COLOR, limit).max(axis=2)
        if image.shape[:2] != mask.shape[:2]:
            _refuse("picture and mask must have the same size")
        kind = _kind(fields)
        name = str(fields.get("name") or "picture")[:LONGEST_NAME]
        try:
            return self._run(image, mask, kind, name)
        except SubmitError as error:
            raise HttpError(HTTPStatus.BAD_GATEWAY, str(error)) from error

    def _run(self, image: Picture, mask: Picture, kind: Kind | None, name: str) -> Response:
        kind = kind or suitable_kind(*mask.shape[:2])
        with self._connect() as client:
            limit = most_whole(self._max_image_pixels)
            fill = Filler(client, name, TIMEOUT_S, kind, limit, given_up=self._stopped)
            result = fill(image, mask)
        requests = fill.request_ids
        done, data = cv2.imencode(".png", result)
        if not done:
            raise HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "the result cannot be encoded")
        return json_response(
            {
                "request_id": requests[0] if requests else "",
                "kind": str(kind),
                "width": result.shape[1],
                "height": result.shape[0],
                "total_s": fill.seconds,
                **self._about(requests),
                "image": base64.b64encode(data.tobytes()).decode(),
            }
        )

    def _about(self, requests: list[str]) -> dict[str, Any]:
        """The batch that did the job, or a note on why no single batch of this worker did."""
        if len(requests) != 1:
            windows = number_of(len(requests), "window")
            return {"batch": None, "note": f"{windows} around the holes of a large picture"}
        batch = self._batch(requests[0])
        return {"batch": batch, "note": "" if batch else "done by another worker"}

    def _batch(self, request_id: str) -> dict[str, Any] | None:
        """The batch's size and stage times, if this worker did the job."""
        deadline = time.monotonic() + 0.5  # a batch is recorded after its last result is committed
        while True:
            with self._watch.lock:
                for note in self._watch.batches:
                    if request_id in note.request_ids:
                        return {
                            "size": note.size,
                            "load_s": note.load_s,
                            "infer_s": note.infer_s,
                            "store_s": note.store_s,
                        }
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        _refuse("the request is not a JSON object")
    return fields


def _kind(fields: dict[str, Any]) -> Kind | None:
    kind = fields.get("kind") or "auto"
    if kind == "auto":
        return None
    if kind not in list(Kind):
        _refuse("kind must be auto, long or short")
    return Kind(kind)


def _decoded(fields: dict[str, Any], name: str, flags: int, most_pixels: int) -> Picture:
    """A picture of the request. Its size is checked before it is decoded."""
    try:
        data = base64.b64decode(str(fields.get(name, "")), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if data[:8] != _PNG or data[12:16] != b"IHDR" or len(data) < 33:
        _refuse(f"{name} is not a PNG in base64")
    width, height = struct.unpack(">II", data[16:24])
    if width * height > most_pixels:
        _refuse(f"{name} has {width}×{height} pixels, more than MAX_IMAGE_PIXELS={most_pixels}")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None or picture.dtype != np.uint8:
        _refuse(f"{name} is not a PNG that OpenCV can read")
    return picture  # type: ignore[return-value]


def _refuse(message: str) -> NoReturn:
    raise HttpError(HTTPStatus.BAD_REQUEST, message)
