"""Sentinel clients that log in as REDIS_URL says, or not at all if the sentinels refuse that."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.exceptions import RedisError
from redis.sentinel import MasterNotFoundError, Sentinel

from core.redis_url import SentinelUrl


class Sentinels(Sentinel):
    """The sentinels of a URL, for blocking clients. They are asked with the login, then without.

    A sentinel that has named the master is asked first from then on.
    """

    def __init__(
        self, address: SentinelUrl, options: dict[str, Any], login: dict[str, Any]
    ) -> None:
        super().__init__(address.sentinels, sentinel_kwargs={**options, **login})  # type: ignore[no-untyped-call]
        self.sentinels += [
            Redis(host, port, **options, ssl=address.tls) for host, port in _without_login(address)
        ]

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """The master's address; raises MasterNotFoundError, whose text is one sentence."""
        errors = []
        for sentinel in list(self.sentinels):
            try:
                masters: Any = sentinel.sentinel_masters()
            except RedisError as error:
                errors.append(error)
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                self.sentinels.sort(key=lambda other: other is not sentinel)
                return state["ip"], state["port"]
        raise _no_master(service_name, errors)


class AsyncSentinels(AsyncSentinel):
    """The same for asyncio clients."""

    def __init__(
        self, address: SentinelUrl, options: dict[str, Any], login: dict[str, Any]
    ) -> None:
        super().__init__(address.sentinels, sentinel_kwargs={**options, **login})  # type: ignore[no-untyped-call]
        self.sentinels += [
            AsyncRedis(host=host, port=port, **options, ssl=address.tls)
            for host, port in _without_login(address)
        ]

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The master's address; raises MasterNotFoundError, whose text is one sentence."""
        errors = []
        for sentinel in list(self.sentinels):
            try:
                masters: Any = await sentinel.sentinel_masters()
            except RedisError as error:
                errors.append(error)
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                self.sentinels.sort(key=lambda other: other is not sentinel)
                return state["ip"], state["port"]
        raise _no_master(service_name, errors)


def _without_login(address: SentinelUrl) -> tuple[tuple[str, int], ...]:
    """The sentinels to ask again without a login."""
    return address.sentinels if address.password else ()


def _no_master(service: str, errors: list[RedisError]) -> MasterNotFoundError:
    reasons = "; ".join(dict.fromkeys(str(error).rstrip(".") for error in errors))
    return MasterNotFoundError(
        f"no sentinel names a master of {service!r}: {reasons or 'it is unknown or down'}"
    )
