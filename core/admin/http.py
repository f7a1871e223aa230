"""Requests and responses, and the limits that keep the admin port from being worn down.

On the standard library's server: HTTP/1.0, a thread per request, a connection per request.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

log = logging.getLogger(__name__)

#: Requests served at once; more are turned away, so that probes never wait for long.
MOST_THREADS: Final = 32

#: Seconds until a request's head, and then its body, must have arrived.
HEAD_TIMEOUT_S: Final = 10.0
BODY_TIMEOUT_S: Final = 60.0

#: How many ports after a taken one are tried.
_PORTS_TRIED: Final = 100

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


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
    """A request that is refused, with a sentence for whoever sent it."""

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


@dataclass(frozen=True)
class Route:
    """What answers a path. `most_bytes` is the largest body that is read for it.

    `check` is called before the body is read, and raises HttpError for callers that may not.
    """

    answer: Callable[[Request], Response]
    check: Callable[[Request], None]
    most_bytes: int = 0


class HttpServer(ThreadingHTTPServer):
    """Serves routes, by method and path, until `shutdown()`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int, routes: Mapping[tuple[str, str], Route]) -> None:
        self.routes = routes
        self._free = threading.BoundedSemaphore(MOST_THREADS)
        self._deadlines: dict[Any, float] = {}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Without the look-up of the host's name, which may take seconds where DNS does not answer.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def expect(self, connection: Any, within_s: float | None) -> None:
        """Cut a connection off unless this is called again in time; None: it has arrived."""
        if within_s is None:
            self._deadlines.pop(connection, None)
        else:
            self._deadlines[connection] = time.monotonic() + within_s

    def service_actions(self) -> None:
        now = time.monotonic()
        for connection, deadline in list(self._deadlines.items()):
            if now > deadline:
                self._deadlines.pop(connection, None)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            self.expect(request, HEAD_TIMEOUT_S)
            super().process_request_thread(request, client_address)
        finally:
            self.expect(request, None)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection of %s ended early", client_address[0], exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    timeout = HEAD_TIMEOUT_S
    server_version, sys_version = "inpainting-worker", ""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("%s " + format, self.client_address[0], *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        status = HTTPStatus(code)
        self._send(json_response({"error": message or status.phrase}, status))

    def _serve(self, method: str) -> None:
        try:
            response = self._answer(method)
        except HttpError as error:
            response = json_response({"error": str(error)}, error.status)
        except Exception:
            log.exception("the admin port cannot answer %s", self.path)
            response = json_response(
                {"error": "this failed; the worker's log says why"},
                HTTPStatus.INTERNAL_SERVER_ERROR,
            )
        self._send(response)

    def _answer(self, method: str) -> Response:
        try:
            url = urlsplit(self.path)
        except ValueError:
            raise HttpError(HTTPStatus.BAD_REQUEST, "this is no path") from None
        route = self.server.routes.get((method, url.path))
        if route is None:
            known = any(path == url.path for _, path in self.server.routes)
            raise HttpError(
                HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND,
                "there is no such page",
            )
        request = Request(
            method,
            url.path,
            dict(parse_qsl(url.query)),
            {name.lower(): value for name, value in self.headers.items()},
            str(self.client_address[0]),
        )
        self.server.expect(self.connection, None)
        route.check(request)
        if method == "POST":
            request = Request(**{**vars(request), "body": self._body(route.most_bytes)})
        return route.answer(request)

    def _body(self, most_bytes: int) -> bytes:
        given = self.headers.get("Content-Length", "")
        if not given.isascii() or not given.isdigit():
            raise HttpError(HTTPStatus.LENGTH_REQUIRED, "Content-Length is needed")
        if len(given) > 12 or int(given) > most_bytes:
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the request has {given[:12]} bytes, {most_bytes} are allowed",
            )
        self.server.expect(self.connection, BODY_TIMEOUT_S)
        body = self.rfile.read(int(given))
        self.server.expect(self.connection, None)
        if len(body) != int(given):
            raise HttpError(HTTPStatus.BAD_REQUEST, "the request is shorter than it says")
        return body

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        headers = {
            **HEADERS,
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            **response.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)


def ports_from(port: int) -> range:
    """Where a server of this port may be: there or, if that was taken, at one of those after it."""
    return range(port, min(port + _PORTS_TRIED, 65_535) + 1)


def listen(host: str, port: int, routes: Mapping[tuple[str, str], Route]) -> HttpServer:
    """A server on this port or, if it is taken, on the next free one.

    Raises OSError if there is none, or the host is no address of this machine.
    """
    ports = ports_from(port)
    for candidate in ports:
        try:
            return HttpServer(host, candidate, routes)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise OSError(f"ADMIN_HOST={host} cannot be listened on: {error}") from error
    raise OSError(f"no free port from ADMIN_PORT={port} to {ports[-1]}")
