"""Thumbnails of the last few pictures, before and after, for the status page (STATUS_PREVIEWS)."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

log = logging.getLogger(__name__)

KEPT: Final = 6
LONGEST_SIDE: Final = 720
JPEG_QUALITY: Final = 82

#: Shortest time between two kept pictures, in seconds, so that previews do not cost throughput.
PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture before and after as JPEG; `at` is in unix seconds."""

    number: int
    at: float
    request_id: str
    image_id: str
    before: bytes
    after: bytes


class Named(Protocol):
    """The part of a job that is needed here."""

    @property
    def request_id(self) -> str: ...

    @property
    def image_id(self) -> str: ...


class Previews:
    """Keeps pictures while `enabled`; thread-safe."""

    def __init__(self) -> None:
        self.enabled = False
        self._lock = threading.Lock()
        self._kept: deque[Preview] = deque(maxlen=KEPT)
        self._numbers = itertools.count(1)
        self._next_at = 0.0

    def keep(self, job: Named, before: Callable[[], Any], after: Any) -> None:
        """Keep a result and what `before` returns (BGR uint8, H×W×3), once every PAUSE_S.

        Never raises, so that a preview cannot fail a job.
        """
        with self._lock:
            if not self.enabled or time.monotonic() < self._next_at:
                return
            self._next_at = time.monotonic() + PAUSE_S
        try:
            preview = Preview(
                next(self._numbers),
                time.time(),
                job.request_id,
                job.image_id,
                _jpeg(before()),
                _jpeg(after),
            )
        except Exception:
            log.exception("no preview of request %s", job.request_id)
            return
        with self._lock:
            self._kept.append(preview)

    def latest(self) -> list[Preview]:
        """The kept previews, newest first."""
        with self._lock:
            return list(reversed(self._kept))

    def find(self, number: int) -> Preview | None:
        """A preview by its number."""
        return next((preview for preview in self.latest() if preview.number == number), None)


def _jpeg(picture: Any) -> bytes:
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError("OpenCV cannot encode it")
    return bytes(data)
