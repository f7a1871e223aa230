"""Connections to Redis, and calls that are repeated until Redis answers.

redis-py's own retries are switched off, because a repeated claim would take further jobs. All
other calls are repeated here until Redis answers, unless the error is permanent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import redis
from redis.asyncio import Connection as AsyncConnection
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import SSLConnection as AsyncSSLConnection
from redis.asyncio import UnixDomainSocketConnection as AsyncUnixConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import SentinelManagedConnection as AsyncSentinelManagedConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection as AsyncSentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from core.broker.redis_connections import leaves_replicas, leaves_replicas_blocking
from core.broker.redis_errors import REDIS_ERRORS, passes
from core.broker.sentinel import AsyncSentinels, Sentinels
from core.config.redis_url import RedisAddress, parse_redis_url, without_password
from core.errors import RedisRefusal
from core.telemetry import watch

log = logging.getLogger(__name__)

COMMAND_TIMEOUT_S = 5.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 5.0

#: Seconds of failing writes after which the worker counts as not ready.
UNREADY_AFTER_S: Final = 10.0

#: The class of connections for each scheme: asyncio's, and the blocking one.
CONNECTIONS: Final[dict[str, tuple[Any, Any]]] = {
    "redis": (AsyncConnection, redis.Connection),
    "rediss": (AsyncSSLConnection, redis.SSLConnection),
    "unix": (AsyncUnixConnection, redis.UnixDomainSocketConnection),
    "redis+sentinel": (AsyncSentinelManagedConnection, SentinelManagedConnection),
    "rediss+sentinel": (AsyncSentinelManagedSSLConnection, SentinelManagedSSLConnection),
}

Reply = TypeVar("Reply")
OnConnect = Callable[[Any], Awaitable[None]]


def async_client(
    redis_url: str,
    *,
    timeout_s: float = COMMAND_TIMEOUT_S,
    on_connect: OnConnect | None = None,
    parser: Any = None,
) -> AsyncRedis:
    """An asyncio client that repeats no call.

    `on_connect` replaces the handshake of a connection, `parser` the class that parses replies.
    """
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "retry": AsyncRetry(NoBackoff(), 0),
    }
    extra = {"redis_connect_func": on_connect, **({"parser_class": parser} if parser else {})}
    address = parse_redis_url(redis_url)
    kind = leaves_replicas(CONNECTIONS[address.scheme][0])
    arguments: dict[str, Any] = {**extra, **_arguments(address), **options}
    if address.is_sentinel:
        sentinels: Any = AsyncSentinels(address, options)
        client: AsyncRedis = sentinels.master_for(
            address.service, connection_class=kind, **arguments
        )
        return client
    return AsyncRedis.from_pool(AsyncConnectionPool(kind, **arguments))


def sync_client(redis_url: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> redis.Redis:
    """A blocking client that repeats no call, for threads and for command-line programs."""
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    address = parse_redis_url(redis_url)
    kind = leaves_replicas_blocking(CONNECTIONS[address.scheme][1])
    arguments: dict[str, Any] = {**_arguments(address), **options}
    if address.is_sentinel:
        sentinels: Any = Sentinels(address, options)
        client: redis.Redis = sentinels.master_for(
            address.service, connection_class=kind, **arguments
        )
        return client
    return redis.Redis.from_pool(redis.ConnectionPool(kind, **arguments))


def _arguments(address: RedisAddress) -> dict[str, Any]:
    """Keyword arguments of a connection to the server, or to what the sentinels name."""
    place: dict[str, Any] = {}
    if address.path:
        place = {"path": address.path}
    elif not address.is_sentinel:
        ((host, port),) = address.hosts
        place = {"host": host, "port": port}
    login = {"username": address.login.username, "password": address.login.password}
    return {"db": address.db, **place, **login, **address.options}


async def pause(delay_s: float, unless: asyncio.Event) -> None:
    """Sleep until the delay is over or the event is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(unless.wait(), delay_s)


class Backoff:
    """Growing delays with jitter: 0.05 s, doubled up to 5 s."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY_S

    async def wait(self, unless: asyncio.Event | None = None) -> None:
        """Sleep for the next delay, or until the event is set."""
        delay_s = self._delay * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        await (pause(delay_s, unless) if unless else asyncio.sleep(delay_s))
        self._delay = min(2 * self._delay, LONGEST_DELAY_S)

    def reset(self) -> None:
        """Start over with the shortest delay."""
        self._delay = FIRST_DELAY_S


class Link:
    """Whether Redis is reachable at present; logs every change.

    All connections of a worker share one Link, so that an outage is logged once. An outage lasts
    until every operation that failed during it has succeeded.
    """

    def __init__(self, redis_url: str) -> None:
        self._url = without_password(redis_url)
        self._failing: set[object] = set()
        self._down_since = 0.0
        self._complaints: set[str] = set()

    def up(self, operation: object) -> None:
        """Note that an operation succeeded."""
        if operation not in self._failing:
            return
        self._failing.discard(operation)
        if not self._failing:
            watch.redis_back()
            watch.clear_obstacle("redis")
            log.info("redis is back after %.1f s", time.monotonic() - self._down_since)
            self._complaints.clear()

    def down(self, operation: object, error: BaseException) -> None:
        """Note that a call failed and will be repeated.

        Raises RedisRefusal if it can never succeed.
        """
        if not passes(error):
            raise RedisRefusal(
                f"redis at {self._url} refuses what the worker needs: {error} "
                "(is a key of another program, a missing right or a missing command in the way? "
                "`doctor` tries them)"
            ) from error
        watch.redis_failed()
        if not self._failing:
            self._down_since = time.monotonic()
        self._failing.add(operation)
        complaint = f"{type(error).__name__}: {error}"
        watch.set_obstacle(
            "redis", f"redis at {self._url} cannot be used ({complaint})", UNREADY_AFTER_S
        )
        # Loops that fail in turn, each with a message of its own, are still one outage.
        if type(error).__name__ not in self._complaints:
            log.warning("redis at %s cannot be used (%s), trying again", self._url, complaint)
            self._complaints.add(type(error).__name__)

    async def repeat_until_answered(self, operation: Callable[[bool], Awaitable[Reply]]) -> Reply:
        """The reply of an idempotent operation, which is repeated until Redis answers.

        The operation gets False on the first call and True on later ones: an earlier call may have
        succeeded and lost its reply. Raises RedisRefusal if it can never succeed.
        """
        backoff, this, again = Backoff(), object(), False
        while True:
            try:
                reply = await operation(again)
            except REDIS_ERRORS as error:
                self.down(this, error)
                again = True
                await backoff.wait()
            else:
                self.up(this)
                return reply
