"""Who may do what over the admin port."""

from __future__ import annotations

import json
import socket

import pytest

from core.admin.guard import Guard
from core.admin.http import HttpError, Request
from harness.admin import OWN_PAGE, PORT, Admin
from harness.redis_server import RedisClient
from harness.workers import StartWorker

SECRET = "correct horse"
BROWSER = {
    "content-type": "application/json",
    "connection": "keep-alive",
    "sec-fetch-site": "same-origin",
}
LOCAL = {**BROWSER, "host": "localhost:5262"}
#: A browser that doesn't send Sec-Fetch-Site.
OLD = {key: LOCAL[key] for key in ("host", "content-type", "connection")}
REMOTE = {"host": "10.0.0.7:5262", "content-type": "application/json"}
WITH_TOKEN = {"authorization": f"Bearer {SECRET}"}

try_it, change, read = Guard.trier, Guard.changer, Guard.reader


def request(headers: dict[str, str], peer: str = "127.0.0.1") -> Request:
    return Request("POST", "/", {}, headers, peer)


@pytest.fixture
def guard() -> Guard:
    return Guard(SECRET)


@pytest.mark.parametrize(
    ("check", "headers", "peer"),
    [
        (read, {"host": "10.0.0.7:5262"}, "10.0.0.9"),
        (read, {"host": "[fd00::7]:5262"}, "fd00::9"),
        (read, {"host": "worker:5262"}, "10.0.0.9"),
        (read, {"host": socket.gethostname()}, "10.0.0.9"),
        (read, {"host": "status.example.com", **WITH_TOKEN}, "10.0.0.9"),
        (try_it, LOCAL, "127.0.0.1"),
        (try_it, LOCAL, "::1"),
        (try_it, LOCAL, "::ffff:127.0.0.1"),
        (try_it, {**LOCAL, "host": "[::1]:5262"}, "::1"),
        (try_it, {**LOCAL, "origin": "http://localhost:5262"}, "127.0.0.1"),
        (try_it, {**OLD, "origin": "http://localhost:5262"}, "127.0.0.1"),
        (try_it, {**REMOTE, **WITH_TOKEN}, "10.0.0.9"),
        (change, {**LOCAL, **WITH_TOKEN}, "127.0.0.1"),
        (change, {**REMOTE, **WITH_TOKEN}, "10.0.0.9"),
    ],
)
def test_these_may(guard: Guard, check: object, headers: dict[str, str], peer: str) -> None:
    check(guard, request(headers, peer))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("check", "headers", "peer", "status"),
    [
        # A name that somebody else has pointed at this address.
        (read, {"host": "evil.example.com"}, "127.0.0.1", 403),
        (try_it, {**LOCAL, "host": "evil.example.com:5262"}, "127.0.0.1", 403),
        (try_it, {**LOCAL, "host": "127.0.0.1.evil.example.com"}, "127.0.0.1", 403),
        # A page of another site.
        (try_it, {**LOCAL, "origin": "http://evil.example.com"}, "127.0.0.1", 403),
        (try_it, {**LOCAL, "origin": "null"}, "127.0.0.1", 403),
        (try_it, {**LOCAL, "sec-fetch-site": "cross-site"}, "127.0.0.1", 403),
        (try_it, {**LOCAL, "content-type": "text/plain"}, "127.0.0.1", 415),
        (try_it, {"host": "localhost"}, "127.0.0.1", 415),
        (change, {**LOCAL, **WITH_TOKEN, "origin": "http://localhost:1"}, "127.0.0.1", 403),
        # Another host, or a proxy that speaks for one.
        (try_it, REMOTE, "10.0.0.9", 403),
        (try_it, LOCAL, "10.0.0.9", 403),
        (try_it, {**LOCAL, "x-forwarded-for": "10.0.0.9"}, "127.0.0.1", 403),
        (try_it, {**LOCAL, "x-forwarded-proto": "https"}, "127.0.0.1", 403),
        # The same by a proxy that says nothing of itself, with what its client says.
        (try_it, {**LOCAL, "connection": "close"}, "127.0.0.1", 403),
        (try_it, {**LOCAL, "connection": "upgrade"}, "127.0.0.1", 403),
        (try_it, {key: LOCAL[key] for key in LOCAL if key != "connection"}, "127.0.0.1", 403),
        (try_it, {**LOCAL, "origin": "https://status.example.com"}, "127.0.0.1", 403),
        # A program: it has a token, or `worker.py submit`.
        (try_it, OLD, "127.0.0.1", 403),
        # No token, or a wrong one.
        (change, LOCAL, "127.0.0.1", 401),
        (change, {**LOCAL, "authorization": "Bearer wrong"}, "127.0.0.1", 401),
        (change, {**LOCAL, "authorization": "Bearer "}, "127.0.0.1", 401),
        (change, {**LOCAL, "authorization": f"Basic {SECRET}"}, "127.0.0.1", 401),
    ],
)
def test_these_may_not(
    guard: Guard, check: object, headers: dict[str, str], peer: str, status: int
) -> None:
    with pytest.raises(HttpError) as caught:
        check(guard, request(headers, peer))  # type: ignore[operator]
    assert caught.value.status == status


def test_without_a_token_in_the_settings_no_token_is_right() -> None:
    open_guard = Guard("")
    for given in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer None"}):
        with pytest.raises(HttpError):
            open_guard.changer(request({**LOCAL, **given}))


def test_the_page_is_told_whether_it_may_try_a_picture(
    start_worker: StartWorker, client: RedisClient
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT, ADMIN_TOKEN=SECRET))
    asked: list[tuple[dict[str, str], bool]] = [
        (OWN_PAGE, True),
        ({"Authorization": f"Bearer {SECRET}"}, True),
        ({}, False),
        ({**OWN_PAGE, "Connection": "close"}, False),
        ({**OWN_PAGE, "X_Forwarded_For": "10.0.0.9"}, False),
    ]
    for headers, may in asked:
        assert admin.ask("/api/status", **headers).json["may"]["try"] is may, headers
        reply = admin.ask("/api/try", {}, **headers)
        assert reply.status == (400 if may else 403), headers  # 400: there is no picture in it


def test_over_the_wire_nothing_is_changed_without_the_token(
    start_worker: StartWorker, client: RedisClient
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT, ADMIN_TOKEN=SECRET))
    client.rpush("inpainting:dead", json.dumps({"raw": "x", "queue": "lama_inference:longtasks"}))
    (entry,) = admin.status["dead"]
    for path in ("/api/dead/retry", "/api/dead/discard"):
        assert admin.ask(path, {"ids": [entry["id"]]}).status == 401
        wrong = admin.ask(path, {"ids": [entry["id"]]}, Authorization="Bearer wrong")
        assert wrong.json == {"error": "this is not ADMIN_TOKEN"}
        assert admin.ask(path).status == 405
    assert client.llen("inpainting:dead") == 1
    assert SECRET not in admin.ask("/api/status").text


def test_answers_carry_what_keeps_a_browser_safe(
    start_worker: StartWorker, client: RedisClient
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    for path in ("/", "/main.js", "/api/status", "/metrics", "/nothing"):
        headers = admin.ask(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
    for path in ("/../config.py", "/..%2fconfig.py", "//etc/passwd", "/static/main.js", "/%00"):
        assert admin.ask(path).status == 404


def test_bodies_that_are_too_long_or_of_unknown_length_are_not_read(
    start_worker: StartWorker, client: RedisClient
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT, ADMIN_TOKEN=SECRET))
    key = {"Authorization": f"Bearer {SECRET}"}
    too_long = admin.ask("/api/dead/retry", b" " * (1 << 17), **key)
    assert too_long.status == 413
    for length in ("-1", "+5", "0x10", "9" * 30, "ten", "1_0"):
        reply = admin.ask("/api/dead/retry", method="POST", Content_Length=length, **key)
        assert reply.status in (411, 413, 415), length
    for body in (
        b"",
        b"[]",
        b"{}",
        b'{"ids": []}',
        b'{"ids": [1]}',
        b'{"ids": ["x"]}',
        b"[" * 9999,
    ):
        assert admin.ask("/api/dead/retry", body, **key).status == 400, body[:20]
