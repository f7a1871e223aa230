"""The commands of Redis that the worker needs: each is tried once, on keys of its own."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

import redis
from redis.exceptions import NoPermissionError, ResponseError

from core.broker.redis_errors import NotMaster
from core.broker.scripts import Script
from core.commands.checks.finding import Finding, ok, problem, warning
from core.config import Delivery

#: Every command of the worker, in an order in which each finds the key that it needs. `list`,
#: `hash`, `zset`, `set` and `string` stand for keys.
COMMANDS: Final = """
PING
TIME
SCAN 0 COUNT 1
RPUSH list a
PEXPIRE list 60000
LPUSH list b
LLEN list
LINDEX list 0
LRANGE list 0 0
LPOS list a
LREM list 1 b
LPOP list
LTRIM list 1 -1
HSET hash a 1
PEXPIRE hash 60000
HSETNX hash b 1
HINCRBY hash a 1
HGET hash a
HGETALL hash
HKEYS hash
HLEN hash
HEXISTS hash a
HSCAN hash 0
HDEL hash b
ZADD zset 1 a
PEXPIRE zset 60000
ZSCORE zset a
ZRANGE zset 0 0
ZRANGEBYSCORE zset 0 1
ZSCAN zset 0
ZCOUNT zset 0 1
ZCARD zset
ZREM zset a
ZREMRANGEBYSCORE zset 0 1
SADD set a
PEXPIRE set 60000
SMEMBERS set
SISMEMBER set a
SCARD set
SREM set a
SET string 1 PX 60000
GET string
PERSIST string
PEXPIRE string 60000
EXISTS string
TYPE string
SCRIPT LOAD
EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0
MULTI
EXEC
DEL list hash zset set string
"""

#: What each delivery mode needs in addition.
BY_DELIVERY: Final = {
    Delivery.AT_LEAST_ONCE: (
        "LMOVE list list LEFT RIGHT",
        "BLMOVE list list LEFT RIGHT 0.01",
    ),
    Delivery.AT_MOST_ONCE: ("BLPOP list 0.01",),
}

#: Without these the worker goes on.
OPTIONAL: Final = ("CLIENT ID", "CLIENT UNBLOCK 0")

_UNKNOWN: Final = re.compile(r"\bunknown (\w+ )?(sub)?command", re.IGNORECASE)

_RIGHTS: Final = "docs/redis-and-security.md has the rights that are needed"


def check(client: redis.Redis, delivery: Delivery) -> Iterator[Finding]:
    """Try each command; what is left of the keys is deleted."""
    missing, forbidden = _refused(client, delivery)
    if missing:
        yield problem(
            "redis",
            f"the server has no {', '.join(missing)}, which the worker needs",
            "use a server that has it: rename-command, or the service that runs the server, may "
            "have taken it away",
        )
    if forbidden:
        yield problem(
            "redis",
            f"this user may not use {', '.join(forbidden)}, which the worker needs",
            f"allow it with ACL SETUSER: {_RIGHTS}",
        )
    if missing or forbidden:
        return
    try:
        Script("rights", client)(
            key=f"inpainting:doctor:{secrets.token_hex(8)}",
            result_queue=None,
            moves=int(delivery is Delivery.AT_LEAST_ONCE),
        )
    except ResponseError as error:
        if _is_refused(error):
            yield problem("redis", f"a script that the worker needs fails: {error}", _RIGHTS)
            return
    yield _unblocking(client)


def _unblocking(client: redis.Redis) -> Finding:
    for line in OPTIONAL:
        try:
            client.execute_command(*line.split())  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if _is_refused(error):
                return warning(
                    "redis",
                    f"it refuses CLIENT ID or CLIENT UNBLOCK: {error}",
                    "the worker does without: a job that arrives while it is idle waits for up "
                    "to 0.1 s",
                )
    return ok("redis", "has every command that the worker needs")


def _refused(client: redis.Redis, delivery: Delivery) -> tuple[list[str], list[str]]:
    """The commands that the server does not have, and those that this user may not use."""
    keys = {
        name: f"inpainting:doctor:{secrets.token_hex(8)}:{name}"
        for name in ("list", "hash", "zset", "set", "string")
    }
    *first, last = COMMANDS.strip().splitlines()
    missing: list[str] = []
    forbidden: list[str] = []
    one: Any = client
    with one.client() as single:  # MULTI is of a connection
        for line in (*first, *BY_DELIVERY[delivery], last):
            name, *words = line.split()
            try:
                _run(single, name, [keys.get(word, word) for word in words])
            except NoPermissionError:
                forbidden.append(name)
            except NotMaster:
                break
            except ResponseError as error:  # others say that it is there
                if _is_refused(error):
                    missing.append(name)
        if "EXEC" in missing or "EXEC" in forbidden:
            single.connection_pool.disconnect()
    return list(dict.fromkeys(missing)), list(dict.fromkeys(forbidden))


def _run(client: Any, name: str, words: list[str]) -> None:
    if name == "SCRIPT":
        words = [*words, "return 1"]
    client.execute_command(name, *words)


def _is_refused(error: ResponseError) -> bool:
    """Whether the server does not have a command, or does not let this user use it."""
    return isinstance(error, NoPermissionError) or bool(_UNKNOWN.search(str(error)))
