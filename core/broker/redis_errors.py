"""What an error of Redis means: whether it passes by itself, and what it says of the server."""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

#: What an operation on Redis raises when it was not done, or its reply was lost.
REDIS_ERRORS = (RedisError, OSError)

#: Codes of replies that pass by themselves. Redis 6.2 wraps those of a command that a script has
#: called: "ERR Error running script …: -OOM command not allowed".
_PASSING: Final = re.compile(
    r"\b(LOADING|BUSY|OOM|NOREPLICAS|READONLY|MASTERDOWN|MISCONF|TRYAGAIN|CLUSTERDOWN|UNBLOCKED)\b"
)


class NotMaster(RedisConnectionError):
    """This connection leads to a replica; a new one may lead to the master."""


def passes(error: BaseException) -> bool:
    """Whether the same call may succeed later: no connection, a time-out, a server without room.

    What does not pass is a fault of the call: a key of the wrong type, a missing right.
    """
    if not isinstance(error, ResponseError):
        return True
    return isinstance(error, OutOfMemoryError | ReadOnlyError) or bool(_PASSING.search(str(error)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the server has reached its maxmemory."""
    return isinstance(error, OutOfMemoryError) or bool(re.search(r"\bOOM\b", str(error)))


def is_read_only(error: BaseException) -> bool:
    """Whether the server is a replica."""
    return isinstance(error, ReadOnlyError) or bool(re.search(r"\bREADONLY\b", str(error)))
