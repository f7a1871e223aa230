"""Classifies errors of Redis: which are temporary, and what they say about the server."""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from core.config.redis_url import without_password

#: What a call to Redis raises if it failed or its reply was lost.
REDIS_ERRORS = (RedisError, OSError)

#: Codes of temporary errors. Redis 6.2 wraps the error of a command in a script: "ERR Error running
#: script …: -OOM command not allowed".
_PASSING: Final = re.compile(
    r"\b(LOADING|BUSY|OOM|NOREPLICAS|READONLY|MASTERDOWN|MISCONF|TRYAGAIN|CLUSTERDOWN|UNBLOCKED)\b"
)


class NotMaster(RedisConnectionError):
    """This connection leads to a replica; a new one may lead to the master."""


def passes(error: BaseException) -> bool:
    """Whether the same call may succeed later: no connection, a timeout, a server without memory.

    Errors of the call itself are permanent: a key of the wrong type, a missing right.
    """
    if not isinstance(error, ResponseError):
        return True
    # NoScriptError: the server has forgotten a script right after it was loaded.
    is_passing = isinstance(error, OutOfMemoryError | ReadOnlyError | NoScriptError)
    return is_passing or bool(_PASSING.search(str(error)))


def cannot_be_used(redis_url: str, error: BaseException) -> str:
    """A sentence on an error, with the address and where it comes from."""
    return (
        f"redis at {without_password(redis_url)} cannot be used: {error} "
        "(REDIS_URL says where it is)"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the server has reached its maxmemory."""
    return isinstance(error, OutOfMemoryError) or bool(re.search(r"\bOOM\b", str(error)))


def is_read_only(error: BaseException) -> bool:
    """Whether the server is a replica."""
    return isinstance(error, ReadOnlyError) or bool(re.search(r"\bREADONLY\b", str(error)))
