"""What the admin port speaks: requests, responses, and the routes from one to the other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Request:
    """A request whose body has been read. Names of headers are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    peer: str
    body: bytes = b""

    def number(self, name: str) -> int:
        """A number from 0 in the query; 0 if there is none."""
        given = self.query.get(name, "")
        return int(given) if given.isdecimal() and len(given) < 12 else 0


@dataclass(frozen=True)
class Response:
    """What is sent back."""

    status: HTTPStatus
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpError(Exception):
    """A request that is refused, with a sentence for its sender."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def json_response(content: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A response of JSON in ASCII."""
    body = json.dumps(content, separators=(",", ":")).encode()
    return Response(status, body, "application/json")


def text_response(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A response of plain text."""
    return Response(status, text.encode(), "text/plain; charset=utf-8")


class Places:
    """Room for a few requests at a time; a context manager that raises HttpError without room."""

    def __init__(self, count: int, complaint: str) -> None:
        """`complaint` is what a request without a place is told."""
        self._count = count
        self._complaint = complaint
        self._free = threading.BoundedSemaphore(count)

    def __enter__(self) -> None:
        if not self._free.acquire(blocking=False):
            raise HttpError(HTTPStatus.TOO_MANY_REQUESTS, self._complaint)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free.release()

    def close(self, timeout_s: float) -> None:
        """Take all places for good, as soon as they are free or the time is over."""
        deadline = time.monotonic() + timeout_s
        for _ in range(self._count):
            self._free.acquire(timeout=max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class Route:
    """What answers a path. `most_bytes` is the largest body that is read for it.

    `check` is called before the body is read, and raises HttpError for callers that may not. Then a
    request takes one of the `places`, if there are any, until its response is sent. A `probe` is
    answered by the thread that all connections wait for: it must not block.
    """

    answer: Callable[[Request], Response]
    check: Callable[[Request], None]
    most_bytes: int = 0
    places: Places | None = None
    probe: bool = False
