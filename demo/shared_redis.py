"""A Redis for the workers that `./run worker` starts in this folder.

The first one starts the server, further ones join it, and the last one that ends stops it. Its data
stays in the folder, so that jobs that wait are done after the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.redis_server import START_TIMEOUT_S, RedisServerError, find_binary

#: The port of the first start, if it is free. Later ones keep theirs.
PORT: Final = 16_379

POLL_S: Final = 0.05


class SharedRedis:
    """A context manager; `url` says where the server is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}"

    def __enter__(self) -> SharedRedis:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._users = (self._folder / "users").open("ab")
        with self._alone():
            self._port = self._known_port()
            if not self._answers():
                self._port = _free_port(self._port or PORT)
                self._start()
                (self._folder / "port").write_text(str(self._port))
            fcntl.flock(self._users, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_: object) -> None:
        with self._users, self._alone():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # others use it
            with contextlib.suppress(redis.RedisError), self._client() as client:
                client.shutdown(nosave=True)  # the append-only file has everything
            deadline = time.monotonic() + START_TIMEOUT_S
            while self._answers() and time.monotonic() < deadline:
                time.sleep(POLL_S)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[IO[bytes]]:
        """Starts and stops happen one after another."""
        with (self._folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock

    def _known_port(self) -> int:
        try:
            return int((self._folder / "port").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _client(self) -> redis.Redis:
        # No retries: a server that has stopped would be asked for seconds.
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self._port, socket_timeout=2, protocol=2, retry=once)

    def _answers(self) -> bool:
        """Whether this folder's server runs; another program may have taken its port."""
        if not self._port:
            return False
        try:
            with self._client() as client:
                return str(client.config_get("dir")["dir"]) == str(self._folder.resolve())
        except redis.RedisError:
            return False

    def _start(self) -> None:
        log = self._folder / "log"
        options = {
            "bind": "127.0.0.1",
            "port": self._port,
            "dir": self._folder.resolve(),
            "logfile": log.resolve(),
            "save": "",
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
            "notify-keyspace-events": "Eh",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        server = subprocess.Popen(
            [find_binary(), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # it may outlive this process, and Ctrl-C is not for it
            env={**os.environ, "LC_ALL": "C"},
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                raise RedisServerError(f"the Redis of {self._folder} does not start: see {log}")
            time.sleep(POLL_S)


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as probe:
            return int(probe.getsockname()[1])
    raise RedisServerError("no port of 127.0.0.1 is free")
