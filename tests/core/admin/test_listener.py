"""The admin port answers in spite of idle clients, slow clients and large bodies."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator

import pytest

from core.admin import handler, listener
from core.admin.http import Places, Request, Response, Route, text_response
from core.admin.listener import MOST_OF_ONE_PEER, MOST_WAITING, listen
from core.admin.server import MOST_TRIED
from harness.admin import OWN_PAGE, PORT, Admin
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.workers import StartWorker

SECRET = "correct horse"
#: What a probe may take: Kubernetes waits for 5 s.
PROMPT_S = 5.0
GET = b"GET / HTTP/1.0\r\n\r\n"


class Port:
    """A server in this process. `/held` is answered once `go` is set, `/small` one at a time."""

    def __init__(self, port: int) -> None:
        self.go = threading.Event()
        places = Places(1, "one is there already")
        routes = {
            ("GET", "/"): Route(lambda _: text_response("hello"), self._anybody),
            ("GET", "/held"): Route(self._held, self._anybody),
            ("GET", "/probe"): Route(lambda _: text_response("ok"), self._anybody, probe=True),
            ("POST", "/small"): Route(
                lambda request: text_response(str(len(request.body))), self._anybody, 9, places
            ),
        }
        self.server = listen("127.0.0.1", range(port, port + 1), routes)
        self.port = self.server.server_port

    @staticmethod
    def _anybody(request: Request) -> None:
        """Everybody may."""

    def _held(self, _: Request) -> Response:
        assert self.go.wait(30)
        return text_response("at last")

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10, (source, 0))

    def ask(self, request: bytes = GET, source: str = "127.0.0.1") -> bytes:
        with self.connect(source) as asking:
            asking.sendall(request)
            return received(asking)

    @property
    def in_threads(self) -> int:
        return self.server._serving.total()


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture
def port() -> Iterator[Port]:
    running = Port(PORT + 60)
    thread = threading.Thread(target=running.server.serve_forever, args=(0.05,))
    thread.start()
    yield running
    running.go.set()
    running.server.shutdown()
    running.server.server_close()
    thread.join()
    wait_until(lambda: running.in_threads == 0, "no request is served any more")


@contextlib.contextmanager
def flood(port: int, most: int) -> Iterator[None]:
    """Clients that connect and say nothing, `most` of them and always new ones."""
    stopped, full = threading.Event(), threading.Event()
    idle: deque[socket.socket] = deque()

    def connect() -> None:
        while not stopped.is_set():
            with contextlib.suppress(OSError):
                idle.append(socket.create_connection(("127.0.0.1", port), 5))
            if len(idle) > most:
                full.set()
                idle.popleft().close()

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        assert full.wait(30)
        yield
    finally:
        stopped.set()
        thread.join()
        for connection in idle:
            connection.close()


def test_probes_are_answered_however_many_clients_are_idle_or_slow(
    start_worker: StartWorker, client: RedisClient
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT, ADMIN_TOKEN=SECRET, LOG_LEVEL="INFO"))
    admin.wait_for("/readyz", 200)
    begun = (
        "POST /api/dead/retry HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
        f"Host: localhost\r\nAuthorization: Bearer {SECRET}\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as slow, flood(admin.port, MOST_WAITING + 50):

        def no_place_is_left() -> bool:
            connection = socket.create_connection(("127.0.0.1", admin.port))
            slow.enter_context(connection).sendall(begun)
            return admin.ask("/metrics").status == 503

        wait_until(no_place_is_left, "this address has no place left")
        for path in ("/livez", "/readyz") * 50:
            began = time.monotonic()
            assert admin.ask(path).status == 200
            assert time.monotonic() - began < PROMPT_S
    wait_until(lambda: admin.ask("/metrics").status == 200, "places were given back")


def test_an_address_takes_a_few_places_and_others_are_served(port: Port) -> None:
    with contextlib.ExitStack() as held:
        waiting = [held.enter_context(port.connect()) for _ in range(MOST_OF_ONE_PEER)]
        for connection in waiting:
            connection.sendall(b"GET /held HTTP/1.0\r\n\r\n")
        wait_until(lambda: port.in_threads == MOST_OF_ONE_PEER, "all places are taken")
        refused = port.ask()
        assert refused.startswith(b"HTTP/1.0 503")
        assert b"try again" in refused
        assert port.ask(source="127.0.0.2").endswith(b"hello")
        assert port.ask(b"GET /probe?x HTTP/1.0\r\n\r\n").endswith(b"ok")
        port.go.set()
        assert all(received(connection).endswith(b"at last") for connection in waiting)
    wait_until(lambda: port.ask().endswith(b"hello"), "places were given back")


def test_all_addresses_together_have_a_limit_too(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MOST_THREADS", 2)
    with port.connect("127.0.0.2") as first, port.connect("127.0.0.3") as second:
        for connection in (first, second):
            connection.sendall(b"GET /held HTTP/1.0\r\n\r\n")
        wait_until(lambda: port.in_threads == 2, "both have their threads")
        assert port.ask().startswith(b"HTTP/1.0 503")


def test_the_oldest_of_too_many_idle_connections_is_dropped(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MOST_WAITING", 2)
    with port.connect() as first, port.connect() as second, port.connect() as third:
        assert received(first) == b""
        for connection in (second, third):
            connection.sendall(GET)
            assert received(connection).endswith(b"hello")


def test_a_caller_that_dawdles_is_cut_off(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_TIMEOUT_S", 0.3)
    with port.connect() as slow:
        began = time.monotonic()
        slow.sendall(b"GET / HTTP/1.0\r\n")
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 10:  # a byte now and then resets no clock
                slow.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - began < 5


def test_a_body_that_does_not_come_is_not_waited_for_long(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "BODY_TIMEOUT_S", 0.3)
    assert b"HTTP/1.0 200" not in port.ask(b"POST /small HTTP/1.0\r\nContent-Length: 9\r\n\r\nhalf")


def test_a_head_without_an_end_is_not_read(port: Port) -> None:
    with port.connect() as endless, contextlib.suppress(ConnectionError):
        endless.sendall(b"GET / HTTP/1.0\r\n" + b"X: y\r\n" * 20_000)
        assert received(endless) == b""


@pytest.mark.parametrize("rest", [b"\r\n\r\n", b"\n\n", b"\r\nX: y\r\n\r\n", b"\r\nX: y\n\r\n"])
def test_a_head_may_come_in_pieces_and_with_either_kind_of_line(port: Port, rest: bytes) -> None:
    for path, answer in ((b"/", b"hello"), (b"/probe", b"ok")):
        with port.connect() as asking:
            asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"GET " + path + b" HTTP/1.0" + rest:
                asking.send(bytes([byte]))
            assert received(asking).endswith(answer)


def test_a_body_is_only_read_once_there_is_a_place_for_it(port: Port) -> None:
    head = b"POST /small HTTP/1.0\r\nContent-Length: 9\r\n\r\n"
    with port.connect() as first, port.connect() as second:
        first.sendall(head + b"half")
        wait_until(lambda: port.in_threads == 1, "the first one has its place")
        wait_until(lambda: port.server._deadlines, "its body is waited for")
        second.sendall(head)  # and nothing else
        second.settimeout(30)
        assert second.recv(65536).startswith(b"HTTP/1.0 429")
        first.sendall(b"-done")
        assert received(first).endswith(b"\r\n\r\n9")
    wait_until(lambda: port.ask(head + b"123456789").endswith(b"\r\n\r\n9"), "its place is free")


def test_no_more_pictures_are_read_than_may_be_tried(
    start_worker: StartWorker, client: RedisClient
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    headers = {**OWN_PAGE, "Host": f"localhost:{admin.port}", "Content-Type": "application/json"}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    begun = f"POST /api/try HTTP/1.1\r\n{head}Content-Length: {59 << 20}\r\n\r\n{{".encode()
    with contextlib.ExitStack() as open_ones:

        def no_place_is_left() -> bool:
            connection = socket.create_connection(("127.0.0.1", admin.port))
            open_ones.enter_context(connection).sendall(begun)
            return admin.ask("/api/try", {}, **OWN_PAGE).status == 429

        wait_until(no_place_is_left, "all places are taken")
        # A client that sends everything before it reads hears of it too.
        reply = admin.ask("/api/try", b"{" + b" " * (32 << 20), **OWN_PAGE)
        complaint = f"{MOST_TRIED} pictures are tried already: wait until one is done"
        assert reply.json == {"error": complaint}
    wait_until(
        lambda: admin.ask("/api/try", {}, **OWN_PAGE).status == 400, "places were given back"
    )
