"""The Redis server of a run, and a replica that can become the master."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import redis

from harness.redis_server import RedisServer

#: The longest that a replica may take to be where its master is, in seconds.
SYNC_S: Final = 5.0

OPTIONS: Final = {"appendfsync": "always", "repl-diskless-sync-delay": "0"}


class Servers:
    """One server or two, as a context. Both keep what they have in an AOF."""

    def __init__(self, *, with_replica: bool) -> None:
        self._all = [
            RedisServer(append_only=True, options=OPTIONS) for _ in range(1 + with_replica)
        ]
        self.is_down = False

    @property
    def master(self) -> RedisServer:
        """The one that takes writes."""
        return self._all[0]

    def __enter__(self) -> Servers:
        with contextlib.ExitStack() as stack:
            for server in self._all:
                stack.enter_context(server)
            self._stack = stack.pop_all()
        for replica in self._all[1:]:
            with self._client(replica) as client:
                client.replicaof("127.0.0.1", self.master.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """A client of the master."""
        with self._client(self.master) as client:
            yield client

    def set_limit(self, most_bytes: int) -> None:
        """Set maxmemory on all servers; 0 is no limit."""
        for server in self._all:
            with contextlib.suppress(redis.RedisError), self._client(server) as client:
                client.config_set("maxmemory", most_bytes)

    def used_bytes(self) -> int:
        """What the master uses now."""
        with self.client() as client:
            return int(client.info("memory")["used_memory"])

    def switch(self) -> bool:
        """Make the replica the master, without the loss of anything that was confirmed.

        The old master becomes its replica and keeps its connections: it refuses what they write.
        False, and nothing is changed, where the replica isn't there yet.
        """
        old, new = self._all
        with self._client(old) as from_old, self._client(new) as to_new:
            if not _within(SYNC_S, lambda: _is_settled(to_new)):
                return False
            from_old.client_pause(int(2 * SYNC_S * 1000), all=False)
            try:
                if not _within(SYNC_S, lambda: _offset(to_new) >= _offset(from_old)):
                    return False
                to_new.replicaof("NO", "ONE")
                from_old.replicaof("127.0.0.1", new.port)
            finally:
                from_old.client_unpause()
        self._all = [new, old]
        return True

    @staticmethod
    def _client(server: RedisServer) -> Any:
        return redis.Redis.from_url(server.url, protocol=2, socket_timeout=20)


def _is_settled(replica: Any) -> bool:
    """Whether it follows its master and has all of that in its own AOF."""
    disk = replica.info("persistence")
    is_written = not (disk["aof_rewrite_in_progress"] or disk["aof_rewrite_scheduled"])
    return is_written and replica.info("replication").get("master_link_status") == "up"


def _offset(client: Any) -> int:
    about = client.info("replication")
    return int(about["slave_repl_offset" if about["role"] == "slave" else "master_repl_offset"])


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
