"""Idle clients that take up an admin port, and a probe that must be answered all the same."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from chaos.programs import Tally

IDLE_CLIENTS: Final = 60

#: Within how many seconds /livez must answer, and how often it is asked.
ANSWER_S: Final = 1.0
INTERVAL_S: Final = 0.3

#: Until a process that dies is seen to be dead, in seconds.
NOTICE_S: Final = 0.3


class Crowd(threading.Thread):
    """Sits on a port for some seconds and asks /livez meanwhile.

    `well` returns the id of the process that must answer, None while it may be silent: it is dead,
    frozen or stopping. A process that has not answered yet is still loading. The idle clients come
    from one to eight other addresses than the probe.
    """

    def __init__(self, port: int, seconds: float, well: Callable[[], int | None], tally: Tally):
        super().__init__(name="crowd", daemon=True)
        self._port = port
        self._seconds = seconds
        self._well = well
        self._tally = tally
        self._peers = random.choice([1, 8])  # noqa: S311 - nothing is secret here
        self._idle: list[socket.socket | None] = [None] * IDLE_CLIENTS
        self._answered = 0  # the process that has answered before
        self._leave = threading.Event()

    def run(self) -> None:
        deadline = time.monotonic() + self._seconds
        self._ask()
        while time.monotonic() < deadline and not self._leave.is_set():
            self._sit_down()
            self._ask()
            self._leave.wait(INTERVAL_S)
        for client in self._idle:
            if client is not None:
                client.close()

    def end(self) -> None:
        """Leave now."""
        self._leave.set()
        self.join()

    def _sit_down(self) -> None:
        """Have all idle clients connected, also those that were sent away."""
        for number, client in enumerate(self._idle):
            if client is not None and not _is_closed(client):
                continue
            if client is not None:
                client.close()
            self._idle[number] = self._client(number)

    def _client(self, number: int) -> socket.socket | None:
        peer = f"127.0.0.{2 + number % self._peers}"
        try:
            client = socket.create_connection(("127.0.0.1", self._port), 0.2, (peer, 0))
            if number % 2:
                client.send(b"GET /livez HT")  # the rest never comes
            client.setblocking(False)
        except OSError:
            return None
        return client

    def _ask(self) -> None:
        before, began = self._well(), time.monotonic()
        problem = self._problem()
        seconds = time.monotonic() - began
        if not problem and seconds <= ANSWER_S:
            self._answered = before or 0
            self._tally.others["probes answered"] += 1
            return
        time.sleep(NOTICE_S)
        if before is not None and before == self._answered == self._well():
            said = problem or "200"
            self._tally.wrong.append(f"process {before}: /livez after {seconds:.2f} s: {said}")

    def _problem(self) -> str:
        """What is wrong with the answer; '' if nothing."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        try:
            connection.request("GET", "/livez")
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace").strip()
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        return "" if answer.status == http.HTTPStatus.OK else f"{answer.status}: {text}"


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def free_ports(count: int) -> range:
    """Consecutive ports that are free."""
    while True:
        first = random.randrange(20_000, 30_000)  # noqa: S311 - nothing is secret here
        ports = range(first, first + count)
        if all(_is_free(port) for port in ports):
            return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
