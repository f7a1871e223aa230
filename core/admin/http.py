"""Requests, responses and routes of the admin port."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from socket import socket
from socketserver import TCPServer
from types import TracebackType
from typing import Any


class RoutingServer(TCPServer):
    """The server that a request's handler knows."""

    #: By method and path.
    routes: Mapping[tuple[str, str], Route]

    def deadline(self, connection: socket, within_s: float) -> AbstractContextManager[None]:
        """A context; a connection is shut down if it takes longer than `within_s` seconds."""
        raise NotImplementedError


@dataclass(frozen=True)
class Request:
    """A request. Header names are in lower case; `body` is read after the route's check."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    peer: str
    body: bytes = b""

    def number(self, name: str) -> int:
        """A non-negative number of the query; 0 if there is none."""
        text = self.query.get(name, "")
        return int(text) if text.isdecimal() and len(text) < 12 else 0


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: HTTPStatus
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpError(Exception):
    """A refused request; the text is a sentence for the client."""

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
    """Limits concurrent requests: entering the context raises HttpError if all places are taken."""

    def __init__(self, count: int, complaint: str) -> None:
        """`complaint` is the text of that error."""
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
        """Take all places for good; waits for them until the timeout."""
        deadline = time.monotonic() + timeout_s
        for _ in range(self._count):
            self._free.acquire(timeout=max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class Route:
    """Answers a path. `most_bytes` is the size of the largest body it accepts.

    `check` is called before the body is read, and raises HttpError for callers without access. Then
    a request takes one of the `places`, if there are any, until its response is sent. A `probe` is
    answered by the thread that accepts all connections, so it must not block.
    """

    answer: Callable[[Request], Response]
    check: Callable[[Request], None]
    most_bytes: int = 0
    places: Places | None = None
    probe: bool = False
