"""Requirements on the Redis server: its version, no cluster mode, no eviction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from core.config import Delivery
from core.errors import RedisUnsuitable

#: The oldest version for each delivery mode: BLMOVE came with 6.2, fractional timeouts of BLPOP
#: with 6.0.
OLDEST: Final = {Delivery.AT_LEAST_ONCE: (6, 2), Delivery.AT_MOST_ONCE: (6, 0)}

#: The `maxmemory-policy` of a server that refuses writes rather than drop a job.
KEEPS_ALL: Final = "noeviction"


def require_suitable(info: Mapping[str, Any], delivery: Delivery) -> None:
    """Raise RedisUnsuitable if a server with this INFO cannot serve the delivery mode."""
    if is_cluster(info):
        raise RedisUnsuitable(
            "this Redis is a cluster, and the worker's keys do not share a slot: point "
            "REDIS_URL at a server that is not in cluster mode"
        )
    if is_too_old(info, delivery):
        at_most_once = (
            " or set DELIVERY=at_most_once (a crash then loses what is computed and read ahead)"
        )
        raise RedisUnsuitable(
            f"this Redis is {version(info)}, DELIVERY={delivery} needs {oldest(delivery)} or "
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


def oldest(delivery: Delivery) -> str:
    """The oldest version that serves a delivery mode, such as 6.2."""
    return ".".join(map(str, OLDEST[delivery]))
