"""The HTTP server of the admin port, with limits that protect it from slow or many clients.

The worker has its own server because uvicorn and http.server do not limit the time and the size of
receiving a head or a body.

One thread accepts connections and waits until their heads have arrived. It leaves the heads in the
kernel's buffers, answers probes itself, and starts a thread for every other request. So a probe
never waits for another request, and a client that only connects costs a list entry.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from core.admin.handler import Handler
from core.admin.http import Route, RoutingServer
from core.config import Settings
from core.errors import NoFreePort

log = logging.getLogger(__name__)

#: Limits of concurrent requests that are not probes, in total and per address. A browser opens six
#: connections to a page.
MOST_THREADS: Final = 32
MOST_OF_ONE_PEER: Final = 8

#: Largest number of connections whose heads have not arrived; beyond it the oldest is dropped. A
#: probe's head arrives right after its connection, before that many others can displace it.
MOST_WAITING: Final = 256

#: Largest time in seconds and size in bytes of a request's head.
HEAD_TIMEOUT_S: Final = 10.0
MOST_HEAD_BYTES: Final = 16 << 10

#: Number of connections accepted in a row before waiting ones are examined again.
_ACCEPTED_AT_ONCE: Final = 64

#: Pause in seconds after an accept() that failed, mostly for lack of file descriptors.
_PAUSE_S: Final = 0.05


@dataclass(frozen=True)
class _Waiting:
    """A connection whose head has not arrived."""

    connection: socket.socket
    address: Any
    deadline: float


class HttpServer(RoutingServer):
    """Serves routes, by method and path, until `shutdown()`."""

    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, host: str, port: int, routes: Mapping[tuple[str, str], Route]) -> None:
        self.routes = routes
        self._probes = {path.encode() for (_, path), route in routes.items() if route.probe}
        self._waiting: dict[int, _Waiting] = {}  # by descriptor, the oldest first
        self._deadlines: dict[socket.socket, float] = {}
        self._serving: Counter[str] = Counter()  # number of requests with a thread, by address
        self._serving_lock = threading.Lock()
        self._stopped, self._ended = threading.Event(), threading.Event()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.server_port = int(self.server_address[1])
        self.socket.setblocking(False)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        with select.epoll() as self._poll:
            self._poll.register(self.socket, select.EPOLLIN)
            while not self._stopped.is_set():
                try:
                    self._serve_once(poll_interval)
                except Exception:  # only this thread answers probes
                    log.exception("the admin port cannot serve a connection")
        for waiting in self._waiting.values():
            waiting.connection.close()
        self._ended.set()

    def shutdown(self) -> None:
        """End serve_forever(), which must have begun, and wait for its end."""
        self._stopped.set()
        self._ended.wait()

    @contextlib.contextmanager
    def deadline(self, connection: socket.socket, within_s: float) -> Iterator[None]:
        """Shut a connection down if the block takes longer than `within_s` seconds."""
        self._deadlines[connection] = time.monotonic() + within_s
        try:
            yield
        finally:
            self._deadlines.pop(connection, None)

    # -- in the thread that accepts connections -------------------------------------------------

    def _serve_once(self, poll_interval: float) -> None:
        for descriptor, _ in self._poll.poll(poll_interval):
            if descriptor == self.socket.fileno():
                self._accept()
            elif descriptor in self._waiting:
                self._look(descriptor)
        now = time.monotonic()
        for waiting in list(self._waiting.values()):
            if now <= waiting.deadline:
                break
            self._drop(waiting)
        for connection, deadline in list(self._deadlines.items()):
            if now > deadline:
                with contextlib.suppress(OSError):  # its thread notices and closes it
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError:
                if self._waiting:
                    self._drop_oldest()
                else:
                    self._stopped.wait(_PAUSE_S)
                return
            try:
                # Edge-triggered, because the head stays in the buffer after it was examined.
                self._poll.register(connection, select.EPOLLIN | select.EPOLLET)
            except OSError:
                connection.close()
                return
            waiting = _Waiting(connection, address, time.monotonic() + HEAD_TIMEOUT_S)
            self._waiting[connection.fileno()] = waiting
            if len(self._waiting) > MOST_WAITING:
                self._drop_oldest()

    def _look(self, descriptor: int) -> None:
        waiting = self._waiting[descriptor]
        try:
            head = waiting.connection.recv(MOST_HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        if b"\n\r\n" in head or b"\n\n" in head:
            self._forget(waiting)
            self._begin(waiting, head)
        elif not head or len(head) == MOST_HEAD_BYTES:
            self._drop(waiting)

    def _begin(self, waiting: _Waiting, head: bytes) -> None:
        method, path, *_ = (*head.partition(b"\n")[0].split(), b"", b"")
        if method in (b"GET", b"HEAD") and path.partition(b"?")[0] in self._probes:
            self._handle(waiting)
            return
        peer = str(waiting.address[0])
        if not self._take_place(peer):
            _turn_away(waiting.connection)
            self.shutdown_request(waiting.connection)
            return
        try:
            threading.Thread(
                target=self._handle_and_leave, args=(waiting, peer), name="admin", daemon=True
            ).start()
        except RuntimeError:  # no thread can be started
            self._give_back_place(peer)
            self.shutdown_request(waiting.connection)

    def _drop_oldest(self) -> None:
        self._drop(next(iter(self._waiting.values())))

    def _drop(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        waiting.connection.close()

    def _forget(self, waiting: _Waiting) -> None:
        del self._waiting[waiting.connection.fileno()]
        self._poll.unregister(waiting.connection)

    # -- in a request's thread; for a probe, in the one above -----------------------------------

    def _handle_and_leave(self, waiting: _Waiting, peer: str) -> None:
        try:
            self._handle(waiting)
        finally:
            self._give_back_place(peer)

    def _handle(self, waiting: _Waiting) -> None:
        try:
            Handler(waiting.connection, waiting.address, self)
        except Exception:
            log.debug("a connection of %s ended early", waiting.address[0], exc_info=True)
        finally:
            self.shutdown_request(waiting.connection)

    def _take_place(self, peer: str) -> bool:
        with self._serving_lock:
            if self._serving.total() >= MOST_THREADS or self._serving[peer] >= MOST_OF_ONE_PEER:
                return False
            self._serving[peer] += 1
            return True

    def _give_back_place(self, peer: str) -> None:
        with self._serving_lock:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]


def _turn_away(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Closing with unread data would reset the connection and lose the response.
        connection.recv(MOST_HEAD_BYTES, socket.MSG_DONTWAIT)
        connection.send(
            b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\n"
            b"Content-Type: application/json\r\n\r\n"
            b'{"error":"too many requests are served at present: try again"}',
            socket.MSG_DONTWAIT,
        )


def listen(host: str, ports: range, routes: Mapping[tuple[str, str], Route]) -> HttpServer:
    """A server on the first of these ports that is free.

    Raises NoFreePort if none is, and OSError if the host is not an address of this machine.
    """
    for port in ports:
        try:
            return HttpServer(host, port, routes)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise OSError(f"ADMIN_HOST={host} cannot be listened on: {error}") from error
            reason = error
    raise NoFreePort(_no_free_port(host, ports, reason)) from reason


def _no_free_port(host: str, ports: range, error: OSError) -> str:
    if len(ports) > 1:
        return f"no port from {ports[0]} to {ports[-1]} is free on {host}"
    default = Settings.model_fields["admin_port"].default
    remedy = f"set another port, or unset ADMIN_PORT for the first free one from {default} on"
    if error.errno == errno.EACCES:
        return f"ADMIN_PORT={ports[0]} needs rights that this worker lacks: {remedy}"
    return (
        f"ADMIN_PORT={ports[0]} is taken on {host} by another program or worker "
        f"(`ss -ltnp 'sport = :{ports[0]}'` names it): stop that, {remedy}"
    )
