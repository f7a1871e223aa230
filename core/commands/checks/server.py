"""Redis: connection, version, commands, eviction, persistence, latency, and the types of keys."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from core import keys
from core.broker.connection import sync_client
from core.broker.redis_errors import REDIS_ERRORS, passes
from core.broker.requirements import (
    KEEPS_ALL,
    eviction_policy,
    is_cluster,
    is_too_old,
    oldest,
    product,
)
from core.commands.checks import redis_commands
from core.commands.checks.finding import Finding, Level, ok, problem, size, warning
from core.config import REQUEST_ID, Delivery, Settings
from core.config.redis_url import parse_redis_url, without_password
from core.keys import Kind
from core.recovery.overview import Overview, read_overview, waiting_outcomes
from core.telemetry.logs import number_of

PINGS: Final = 25

#: Median round trip, in ms, above which claims and commits slow the worker down.
SLOW_MS: Final = 5.0


#: What a server says of a SELECT: a number that is too large, or that a cluster does not have.
_NO_DATABASE: Final = re.compile(r"\b(DB index|SELECT is not allowed)\b", re.IGNORECASE)


def check(settings: Settings) -> Iterator[Finding]:
    """Check the server of REDIS_URL."""
    address = without_password(settings.redis_url)
    try:
        with sync_client(settings.redis_url) as client:
            yield from _reached(settings, client, address)
    except (AuthenticationError, NoPermissionError) as error:
        yield problem(
            "redis",
            f"{address} refuses this user: {error}",
            f"put user and password into REDIS_URL ({_with_login(settings.redis_url)}); "
            "docs/redis-and-security.md has the rights that are needed",
        )
    except REDIS_ERRORS as error:
        if _NO_DATABASE.search(str(error)):
            yield problem(
                "redis",
                f"{address} has no database {parse_redis_url(settings.redis_url).db}: {error}",
                "name a smaller number in REDIS_URL, such as 0, or raise `databases` in the "
                "server's configuration",
            )
            return
        if isinstance(error, ResponseError) and not passes(error):
            yield problem(
                "redis",
                f"{address} refuses a command that the worker needs: {error}",
                "use a server that has it: rename-command, or the service that runs the server, "
                "may have taken it away",
            )
            return
        yield problem(
            "redis",
            f"{address} cannot be reached: {error}",
            "start Redis there, or set REDIS_URL to where it runs",
        )


def _with_login(url: str) -> str:
    """Where user and password stand in a URL of this kind."""
    scheme = parse_redis_url(url).scheme
    return f"{scheme}://user:password@{'/path' if scheme == 'unix' else 'host'}"


def _reached(settings: Settings, client: redis.Redis, address: str) -> Iterator[Finding]:
    info = client.info()
    yield _version(info, settings.delivery, address)
    if is_cluster(info):
        yield problem(
            "redis",
            "it is a cluster: the worker's keys do not share a slot",
            "point REDIS_URL at a server that is not in cluster mode",
        )
    if info.get("role", "master") != "master":
        yield problem(
            "redis",
            "it is a replica, which takes no writes",
            "point REDIS_URL at the master, or use redis+sentinel://",
        )
    if ignored := parse_redis_url(settings.redis_url).ignored:
        yield warning(
            "redis",
            f"{', '.join(ignored)} in REDIS_URL has no effect: the worker sets it itself",
            "remove it from REDIS_URL",
        )
    if not (is_cluster(info) or is_too_old(info, settings.delivery)):
        tried = list(redis_commands.check(client, settings.delivery))
        yield from tried
        if any(finding.level is Level.PROBLEM for finding in tried):
            return
    yield _policy(info)
    yield _persistence(info)
    yield _latency(client)
    yield from _outcomes(client, settings.result_queue, settings.result_queue_max)
    types = list(_key_types(client, settings.queues, settings.result_queue))
    yield from types
    if all(finding.level is Level.OK for finding in types):
        yield _dead(client)
        yield from _orphans(read_overview(client, settings.queues, settings.result_queue))


def _version(info: dict[str, Any], delivery: Delivery, address: str) -> Finding:
    if is_too_old(info, delivery):
        return problem(
            "redis",
            f"{address} is {product(info)}, DELIVERY={delivery} needs {oldest(delivery)}",
            "upgrade it, or DELIVERY=at_most_once (a crash then loses what is computed and read "
            "ahead)",
        )
    return ok("redis", f"{product(info)} answers at {address}")


def _policy(info: dict[str, Any]) -> Finding:
    policy = eviction_policy(info)
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if policy != KEEPS_ALL:
        return warning(
            "redis",
            f"its maxmemory-policy is {policy}: jobs may be evicted",
            f"CONFIG SET maxmemory-policy {KEEPS_ALL}",
        )
    if most and used > 0.9 * most:
        return warning(
            "redis",
            f"{size(used)} of {size(most)} are in use: it will refuse jobs when full",
            "raise maxmemory",
        )
    return ok("redis", f"evicts nothing; {size(used)} in use")


def _persistence(info: dict[str, Any]) -> Finding:
    if int(info.get("aof_enabled", 0)):
        if info.get("aof_last_write_status", "ok") != "ok":
            return problem(
                "redis",
                "it cannot write its append-only file",
                "make room on its disk, and look at its log",
            )
        return ok("redis", "writes an append-only file: jobs survive its restart")
    return warning(
        "redis",
        "writes no append-only file: jobs since its last snapshot die with it",
        "start it with --appendonly yes",
    )


def _latency(client: redis.Redis) -> Finding:
    times_ms = []
    for _ in range(PINGS):
        began = time.perf_counter()
        client.ping()
        times_ms.append(1000 * (time.perf_counter() - began))
    median_ms = statistics.median(times_ms)
    text = f"a round trip takes {median_ms:.2f} ms (median of {PINGS}, longest {max(times_ms):.2f})"
    if median_ms > SLOW_MS:
        return warning("redis", text, "each job needs a few: move worker and Redis closer")
    return ok("redis", text)


def _outcomes(client: redis.Redis, name: str, most: int) -> Iterator[Finding]:
    """How receivers learn of results: from the result queue, or from events."""
    if name and REQUEST_ID in name:
        yield ok("redis", f"each request has a result queue of its own, {name}")
    elif name:
        if client.type(name) not in (b"list", b"none"):
            return  # a problem, which the types of keys show
        waiting = waiting_outcomes(client, name)
        if waiting >= most:
            yield warning(
                "redis",
                f"the result queue {name} is full, with {waiting} outcomes: the oldest are dropped",
                "start a receiver, or raise RESULT_QUEUE_MAX",
            )
        else:
            yield ok("redis", f"{waiting} outcomes wait in the result queue {name}")
    else:
        yield _events(client)


def _events(client: redis.Redis) -> Finding:
    """Whether the server publishes an event for each result."""
    try:
        flags = str(client.config_get("notify-keyspace-events")["notify-keyspace-events"])
    except (ResponseError, KeyError):
        return ok("redis", "it does not say whether it publishes keyspace events")
    if "E" in flags and ({"h", "A"} & {*flags}):
        return ok("redis", "publishes keyspace events of results")
    return warning(
        "redis",
        "publishes no keyspace events, and RESULT_QUEUE is unset: receivers have to scan",
        "set RESULT_QUEUE, or CONFIG SET notify-keyspace-events Eh",
    )


def _orphans(overview: Overview) -> Iterator[Finding]:
    """Jobs of dead workers whose crew has no living worker to recover them."""
    for orphan in overview.orphans:
        yield warning(
            "redis",
            f"{number_of(orphan.jobs, 'job')} claimed by dead workers on {orphan.host} "
            f"({' and '.join(orphan.queues.values())}), none of which is alive",
            "start a worker there, or any worker of these queues: it gives them back after "
            "ORPHAN_AFTER_S",
        )


def _key_types(
    client: redis.Redis, queues: Mapping[Kind, str], result_queue: str
) -> Iterator[Finding]:
    expected = {queues[kind]: "list" for kind in Kind}
    expected |= keys.TYPES
    if result_queue and REQUEST_ID not in result_queue:
        expected[result_queue] = "list"
    is_good = True
    for key, needed in expected.items():
        actual = cast(bytes, client.type(key)).decode()
        if actual not in ("none", needed):
            is_good = False
            yield problem(
                "redis",
                f"the key {key} is a {actual}, must be a {needed}",
                "something else uses this key: name another one, or another database in REDIS_URL",
            )
    if is_good:
        lengths = ", ".join(f"{client.llen(queues[kind])} {kind}" for kind in Kind)
        yield ok("redis", f"jobs waiting: {lengths}")


def _dead(client: redis.Redis) -> Finding:
    if dead := client.llen(keys.DEAD):
        return warning(
            "redis",
            f"{number_of(dead, 'job')} on the dead-letter list",
            "`python worker.py dead list` says why; then `dead retry` or `dead discard`",
        )
    return ok("redis", "no dead jobs")
