"""Requirements on the Redis server: its version, no cluster mode, no eviction, its commands."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from redis.exceptions import ResponseError

from core import keys
from core.broker.redis_errors import passes
from core.config import Delivery
from core.config.redis_url import parse_redis_url
from core.errors import RedisUnsuitable

log = logging.getLogger(__name__)

#: The oldest version for each delivery mode: BLMOVE came with 6.2, fractional timeouts of BLPOP
#: with 6.0.
OLDEST: Final = {Delivery.AT_LEAST_ONCE: (6, 2), Delivery.AT_MOST_ONCE: (6, 0)}

#: The `maxmemory-policy` of a server that refuses writes rather than drop a job.
KEEPS_ALL: Final = "noeviction"


def warn_of_ignored(redis_url: str) -> None:
    """Log which options of REDIS_URL have no effect."""
    if ignored := parse_redis_url(redis_url).ignored:
        log.warning(
            "REDIS_URL: %s has no effect, the worker sets it itself: remove it", ", ".join(ignored)
        )


async def require_server(redis: Any, delivery: Delivery) -> None:
    """Raise RedisUnsuitable if a server cannot serve the delivery mode."""
    info = await redis.info()
    require_suitable(info, delivery)
    if (policy := eviction_policy(info)) != KEEPS_ALL:
        log.warning(
            "redis may evict jobs and results: its maxmemory-policy is %s, set %s",
            policy,
            KEEPS_ALL,
        )
    for key, needed in keys.TYPES.items():
        if (actual := (await redis.type(key)).decode()) not in ("none", needed):
            raise RedisUnsuitable(
                f"the key {key} in redis is a {actual}, must be a {needed}: rename or delete "
                "it, or name another database in REDIS_URL"
            )


async def can_unblock(redis: Any) -> bool:
    """Whether a server can end a wait when it is told to; logs why it can't."""
    try:
        await redis.execute_command("CLIENT ID")
        await redis.execute_command("CLIENT UNBLOCK", 0)
    except ResponseError as error:
        if passes(error):
            raise
        log.warning(
            "claims are slower when idle, since redis refuses CLIENT ID or CLIENT UNBLOCK: %s",
            error,
        )
        return False
    return True


def require_suitable(info: Mapping[str, Any], delivery: Delivery) -> None:
    """Raise RedisUnsuitable if a server with this INFO cannot serve the delivery mode."""
    if is_cluster(info):
        raise RedisUnsuitable(
            "this server is a cluster, and the worker's keys do not share a slot: point "
            "REDIS_URL at a server that is not in cluster mode"
        )
    if is_too_old(info, delivery):
        at_most_once = (
            " or set DELIVERY=at_most_once (a crash then loses what is computed and read ahead)"
        )
        raise RedisUnsuitable(
            f"this is {product(info)}, DELIVERY={delivery} needs {oldest(delivery)} or "
            f"later: upgrade it{at_most_once if delivery is Delivery.AT_LEAST_ONCE else ''}"
        )


def is_cluster(info: Mapping[str, Any]) -> bool:
    """Whether the server is in cluster mode."""
    return bool(int(info.get("cluster_enabled", 0)))


def is_too_old(info: Mapping[str, Any], delivery: Delivery) -> bool:
    """Whether the server lacks what the delivery mode needs."""
    parts = tuple(int(part) for part in version(info).split(".") if part.isdigit())
    return parts < OLDEST[delivery]


def eviction_policy(info: Mapping[str, Any]) -> str:
    """The server's maxmemory-policy; any but KEEPS_ALL may drop keys when memory is full."""
    return str(info.get("maxmemory_policy", KEEPS_ALL))


def version(info: Mapping[str, Any]) -> str:
    """The server's version, such as 7.2.4."""
    return str(info.get("redis_version", "0"))


def product(info: Mapping[str, Any]) -> str:
    """The server's name and version: `Redis 7.2.4`, `Valkey 9.1.2 (as Redis 7.2.4)`."""
    if valkey := info.get("valkey_version"):
        return f"Valkey {valkey} (as Redis {version(info)})"
    return f"Redis {version(info)}"


def oldest(delivery: Delivery) -> str:
    """The oldest version that serves a delivery mode, such as 6.2."""
    return ".".join(map(str, OLDEST[delivery]))
