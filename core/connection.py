"""Connections to Redis, and what to do while there is none.

redis-py's own retries are switched off everywhere: a repeated BLMOVE would move a second job, and
everything else is repeated here for as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from core.config import Settings
from core.redis_url import SentinelUrl, is_sentinel, parse_sentinel_url, without_password
from core.telemetry import watch

log = logging.getLogger(__name__)

#: What an operation on Redis raises when the server cannot do it at present.
REDIS_ERRORS = (RedisError, OSError)

LUA = Path(__file__).parent / "lua"

COMMAND_TIMEOUT_S = 5.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 5.0

Reply = TypeVar("Reply")
OnConnect = Callable[[Any], Awaitable[None]]


def async_client(
    settings: Settings, *, timeout_s: float = COMMAND_TIMEOUT_S, on_connect: OnConnect | None = None
) -> AsyncRedis:
    """An asyncio client without retries; `on_connect` replaces the handshake of a connection."""
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "retry": AsyncRetry(NoBackoff(), 0),
    }
    url = settings.redis_url
    if is_sentinel(url):
        where = parse_sentinel_url(url)
        login = _login(where)
        sentinels: Any = AsyncSentinel(  # type: ignore[no-untyped-call]
            where.sentinels, sentinel_kwargs={**options, **login}
        )
        client: AsyncRedis = sentinels.master_for(
            where.service, db=where.db, redis_connect_func=on_connect, **options, **login
        )
        return client
    return AsyncRedis.from_url(url, redis_connect_func=on_connect, **options)


def sync_client(settings: Settings, *, timeout_s: float = COMMAND_TIMEOUT_S) -> redis.Redis:
    """A blocking client without retries, for threads and for command-line programs."""
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    url = settings.redis_url
    if is_sentinel(url):
        where = parse_sentinel_url(url)
        login = _login(where)
        sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
            where.sentinels, sentinel_kwargs={**options, **login}
        )
        client: redis.Redis = sentinels.master_for(where.service, db=where.db, **options, **login)
        return client
    return redis.Redis.from_url(url, **options)


def _login(where: SentinelUrl) -> dict[str, Any]:
    return {"username": where.username, "password": where.password, "ssl": where.tls}


def load_scripts(client: AsyncRedis) -> dict[str, AsyncScript]:
    """The scripts of core/lua by name, to be run on this client's connections."""
    return {path.stem: client.register_script(path.read_text()) for path in LUA.glob("*.lua")}


async def pause(delay_s: float, unless: asyncio.Event) -> None:
    """Sleep, or until the event is set."""
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
    """Whether Redis can be used at present; says so in the log when that changes.

    One is shared by all connections of a worker, so that an outage is one line and not many.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = without_password(settings.redis_url)
        self._down_since: float | None = None
        self._complaint = ""

    def up(self) -> None:
        """Note that an operation succeeded."""
        if self._down_since is not None:
            watch.redis_back()
            log.info("redis is back after %.1f s", time.monotonic() - self._down_since)
            self._down_since = None
            self._complaint = ""

    def down(self, error: BaseException) -> None:
        """Note that an operation failed."""
        watch.redis_failed()
        complaint = f"{type(error).__name__}: {error}"
        if complaint != self._complaint:
            log.warning("redis at %s cannot be used (%s), trying again", self._url, complaint)
            self._complaint = complaint
        if self._down_since is None:
            self._down_since = time.monotonic()

    async def insist(self, operation: Callable[[], Awaitable[Reply]]) -> Reply:
        """The reply of an operation that may be repeated, however long it takes to get it."""
        backoff = Backoff()
        while True:
            try:
                reply = await operation()
            except REDIS_ERRORS as error:
                self.down(error)
                await backoff.wait()
            else:
                self.up()
                return reply
