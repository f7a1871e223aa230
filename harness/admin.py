"""A caller of the admin port."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import http.client
import json
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.config import Settings
from harness.process import Process
from harness.waiting import wait_until


def _own_block() -> tuple[int, socket.socket]:
    """The first of 100 ports that no other process of the tests uses, and the lock on them."""
    for first in range(20_000, 32_000, 100):
        with contextlib.suppress(OSError):
            return first, socket.create_server(("127.0.0.1", first + 99))
    raise OSError("no block of ports is free from 20000 to 32000")


#: ADMIN_PORT of workers. The 98 ports after it are this process' own, too.
PORT, _LOCK = _own_block()
atexit.register(_LOCK.close)


@contextlib.contextmanager
def default_ports() -> Iterator[int]:
    """The default of ADMIN_PORT, for one test at a time: workers take the next free port."""
    with Path(tempfile.gettempdir(), "inpainting-default-ports.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Settings.model_fields["admin_port"].default


JSON = {"Content-Type": "application/json"}


def token(value: str) -> dict[str, str]:
    """The headers of a caller who knows ADMIN_TOKEN."""
    return {**JSON, "Authorization": f"Bearer {value}"}


#: Headers that a browser sends with a request of the status page.
OWN_PAGE = {"Connection": "keep-alive", "Sec_Fetch_Site": "same-origin"}


class Reply:
    """An answer of the admin port."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Admin:
    """The admin port of a worker, found by the line in its log."""

    def __init__(self, worker: Process) -> None:
        worker.wait_for_line("metrics, health and status page on ")
        (port,) = re.findall(r"status page on http://.*?:(\d+)/", worker.output)
        self.port = int(port)

    def ask(
        self, path: str, content: Any = None, *, method: str = "", **headers: str | None
    ) -> Reply:
        """GET a path, or POST `content` as JSON; headers are keyword arguments, `_` for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = None if content is None else content
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        sent = {name: value for name, value in named.items() if value is not None}
        if body is not None and not any(name.lower() == "content-type" for name in named):
            sent |= JSON
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    @property
    def status(self) -> Any:
        """The data of the status page."""
        return self.ask("/api/status").json

    def metrics(self) -> dict[tuple[str, ...], float]:
        """The samples by name and label values, as Prometheus' own parser reads them."""
        from prometheus_client.parser import text_string_to_metric_families

        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.ask("/metrics").text)
            for sample in family.samples
        }

    def wait_for(self, path: str, status: int) -> Reply:
        """The reply, once its status is this one."""
        wait_until(lambda: self.ask(path).status == status, f"{path} is {status}")
        return self.ask(path)
