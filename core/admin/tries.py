"""Pictures from the status page, sent through the real queue like anybody's."""

from __future__ import annotations

import base64
import binascii
import json
import struct
import threading
import time
from http import HTTPStatus
from typing import Any, Final, NoReturn

import cv2
import numpy as np

from core.admin.http import HttpError, Request, Response, json_response
from core.client import Client, SubmitError, suitable_kind
from core.config import Settings
from core.keys import Kind
from core.pixels.arrays import Picture
from core.telemetry import Watch

TIMEOUT_S: Final = 120.0
LONGEST_NAME: Final = 200

_PNG: Final = b"\x89PNG\r\n\x1a\n"


class Tries:
    """Answers requests with the picture that the worker has made of theirs."""

    def __init__(self, settings: Settings, watch: Watch) -> None:
        self._settings = settings
        self._watch = watch
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Take back what no worker has begun, and wait for nothing any more."""
        self._stopped.set()

    def __call__(self, request: Request) -> Response:
        """`image` and `mask` (PNG in base64, of one size), `kind` and `name` to a result."""
        fields = _fields(request.body)
        limit = self._settings.max_image_pixels
        image = _decoded(fields, "image", cv2.IMREAD_COLOR, limit)
        mask = _decoded(fields, "mask", cv2.IMREAD_GRAYSCALE, limit)
        if image.shape[:2] != mask.shape[:2]:
            _refuse("picture and mask must have the same size")
        kind = _kind(fields, image)
        name = str(fields.get("name") or "picture")[:LONGEST_NAME]
        try:
            return self._run(image, mask, kind, name)
        except SubmitError as error:
            raise HttpError(HTTPStatus.BAD_GATEWAY, str(error)) from error

    def _run(self, image: Any, mask: Any, kind: Kind, name: str) -> Response:
        began = time.monotonic()
        with Client(self._settings) as client:
            submission = client.submit(image, mask, kind, name)
            result = client.wait(submission, TIMEOUT_S, self._stopped)
        total_s = time.monotonic() - began
        done, data = cv2.imencode(".png", result)
        if not done:
            raise HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "the result cannot be encoded")
        return json_response(
            {
                "request_id": submission.request_id,
                "kind": str(kind),
                "width": result.shape[1],
                "height": result.shape[0],
                "total_s": total_s,
                "batch": self._batch(submission.request_id),
                "image": base64.b64encode(data.tobytes()).decode(),
            }
        )

    def _batch(self, request_id: str) -> dict[str, Any] | None:
        """The stages' times, if it was this worker that did the job."""
        deadline = time.monotonic() + 0.5  # the batch is noted after its last result is out
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


def _kind(fields: dict[str, Any], image: Picture) -> Kind:
    wanted = fields.get("kind") or "auto"
    if wanted == "auto":
        return suitable_kind(*image.shape[:2])
    if wanted not in list(Kind):
        _refuse("kind is auto, long or short")
    return Kind(wanted)


def _decoded(fields: dict[str, Any], name: str, flags: int, most_pixels: int) -> Picture:
    """A picture of the request. Its head says how large it is: that is looked at first."""
    try:
        data = base64.b64decode(str(fields.get(name, "")), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if data[:8] != _PNG or data[12:16] != b"IHDR" or len(data) < 33:
        _refuse(f"{name} is not a PNG in base64")
    width, height = struct.unpack(">II", data[16:24])
    if width * height > most_pixels:
        _refuse(f"{name} has {width}×{height} pixels: {most_pixels} are allowed (MAX_IMAGE_PIXELS)")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None or picture.dtype != np.uint8:
        _refuse(f"{name} is not a PNG that OpenCV can read")
    return picture  # type: ignore[return-value]


def _refuse(message: str) -> NoReturn:
    raise HttpError(HTTPStatus.BAD_REQUEST, message)
