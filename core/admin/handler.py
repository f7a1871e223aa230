"""Handles one request: parses the head, reads the body, responds. HTTP/1.0, no keep-alive."""

from __future__ import annotations

import contextlib
import logging
import socket
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from core.admin.http import HttpError, Request, Response, Route, RoutingServer, json_response

log = logging.getLogger(__name__)

#: Timeouts in seconds: for a request's whole body, and for sending a part of the response.
BODY_TIMEOUT_S: Final = 60.0
SEND_TIMEOUT_S: Final = 10.0

#: Seconds for which the unread body of a refused request is received and dropped. Many clients read
#: the response only after they have sent the body, and closing with unread data resets a
#: connection.
DROP_TIMEOUT_S: Final = 5.0

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


class Handler(BaseHTTPRequestHandler):
    """Answers the request of a connection whose head has arrived completely."""

    server: RoutingServer
    timeout = SEND_TIMEOUT_S
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
        with contextlib.ExitStack() as places:
            try:
                response = self._answer(method, places)
            except HttpError as error:
                response = json_response({"error": str(error)}, error.status)
            except Exception:
                log.exception("the admin port cannot answer %s", self.path)
                response = json_response(
                    {"error": "this failed; the worker's log says why"},
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                )
            self._send(response)
        if method == "POST" and response.status >= HTTPStatus.BAD_REQUEST:
            self._drop_body()

    def _answer(self, method: str, places: contextlib.ExitStack) -> Response:
        route, request = self._find(method)
        route.check(request)
        if method == "POST":
            length = self._body_length(route.most_bytes)
            if route.places is not None:
                places.enter_context(route.places)
            request = replace(request, body=self._body(length))
        return route.answer(request)

    def _find(self, method: str) -> tuple[Route, Request]:
        try:
            url = urlsplit(self.path)
        except ValueError:
            raise HttpError(HTTPStatus.BAD_REQUEST, "the path is invalid") from None
        route = self.server.routes.get((method, url.path))
        if route is None:
            known = any(path == url.path for _, path in self.server.routes)
            raise HttpError(
                HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND,
                "there is no such page",
            )
        return route, Request(
            method,
            url.path,
            dict(parse_qsl(url.query)),
            {name.lower(): value for name, value in self.headers.items()},
            str(self.client_address[0]),
        )

    def _body_length(self, most_bytes: int) -> int:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise HttpError(HTTPStatus.LENGTH_REQUIRED, "Content-Length is required")
        if len(length) > 12 or int(length) > most_bytes:
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the request has {length[:12]} bytes, at most {most_bytes} are allowed",
            )
        return int(length)

    def _body(self, length: int) -> bytes:
        with self.server.deadline(self.connection, BODY_TIMEOUT_S):
            body = self.rfile.read(length)
        if len(body) != length:
            raise HttpError(
                HTTPStatus.BAD_REQUEST, "the request is shorter than its Content-Length"
            )
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

    def _drop_body(self) -> None:
        with self.server.deadline(self.connection, DROP_TIMEOUT_S):
            self.connection.shutdown(socket.SHUT_WR)
            while self.connection.recv(1 << 16):
                pass
