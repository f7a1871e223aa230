"""Sentinel clients that log in as REDIS_URL says, or not at all if a sentinel refuses that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import redis
from redis.asyncio import Connection as AsyncConnection
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import SSLConnection as AsyncSSLConnection
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.sentinel import MasterNotFoundError, Sentinel

from core.config.redis_url import Login, RedisAddress

#: What a sentinel raises if it refuses a login, or wants one.
_REFUSALS: Final = (AuthenticationError, ResponseError)


class Sentinels(Sentinel):
    """The sentinels of a URL, for blocking clients.

    Each is asked with the login and, if it refuses that, without one. What it has accepted is
    tried first from then on, and so is a sentinel that has named the master.
    """

    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        super().__init__((), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        kind = redis.SSLConnection if address.tls else redis.Connection
        self.sentinels, self._others = _clients(
            address, lambda to: redis.Redis.from_pool(redis.ConnectionPool(kind, **to, **options))
        )

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """The master's address; raises MasterNotFoundError, whose text is one sentence."""
        errors: list[RedisError] = []
        for sentinel in list(self.sentinels):
            for client in filter(None, (sentinel, self._others.get(sentinel))):
                try:
                    masters: Any = client.sentinel_masters()
                except _REFUSALS as error:
                    errors.append(error)
                    continue
                except RedisError as error:
                    errors.append(error)
                    break
                state = masters.get(service_name)
                if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                    self.sentinels = _first(client, sentinel, self.sentinels)
                    return state["ip"], state["port"]
                break
        raise _no_master(service_name, errors)


class AsyncSentinels(AsyncSentinel):
    """The same for asyncio clients."""

    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        super().__init__((), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        kind = AsyncSSLConnection if address.tls else AsyncConnection
        self.sentinels, self._others = _clients(
            address, lambda to: AsyncRedis.from_pool(AsyncConnectionPool(kind, **to, **options))
        )

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The master's address; raises MasterNotFoundError, whose text is one sentence."""
        errors: list[RedisError] = []
        for sentinel in list(self.sentinels):
            for client in filter(None, (sentinel, self._others.get(sentinel))):
                try:
                    masters: Any = await client.sentinel_masters()
                except _REFUSALS as error:
                    errors.append(error)
                    continue
                except RedisError as error:
                    errors.append(error)
                    break
                state = masters.get(service_name)
                if state and self.check_master_state(state, service_name):
                    self.sentinels = _first(client, sentinel, self.sentinels)
                    return state["ip"], state["port"]
                break
        raise _no_master(service_name, errors)


def _clients(
    address: RedisAddress, connect: Callable[[dict[str, Any]], Any]
) -> tuple[list[Any], dict[Any, Any]]:
    """A client per sentinel; for each with a login its twin without one, and vice versa."""
    login = address.login if address.sentinel_login == Login() else address.sentinel_login
    clients: list[Any] = []
    others: dict[Any, Any] = {}
    for host, port in address.hosts:
        to = {"host": host, "port": port, **address.options}
        plain = connect(to)
        clients.append(plain)
        if login.password:
            clients[-1] = connect({**to, "username": login.username, "password": login.password})
            others |= {clients[-1]: plain, plain: clients[-1]}
    return clients, others


def _first(client: Any, sentinel: Any, sentinels: list[Any]) -> list[Any]:
    """The sentinels with this client first, in the place of the one that stood for it."""
    return [client, *(other for other in sentinels if other is not sentinel)]


def _no_master(service: str, errors: list[RedisError]) -> MasterNotFoundError:
    reasons = "; ".join(dict.fromkeys(str(error).rstrip(".") for error in errors))
    return MasterNotFoundError(
        f"no sentinel names a master of {service!r}: {reasons or 'it is unknown or down'}"
    )
