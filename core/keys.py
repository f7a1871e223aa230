"""Every Redis key that the worker touches, apart from the two queues, whose names are settings.

`worker` is a worker's id and `namespace` the shared memory it can see (see `core.identity`).
"""

import hashlib
from enum import StrEnum


class Kind(StrEnum):
    """The kind of a job: the queue it came from."""

    LONG = "long"
    SHORT = "short"

    @property
    def other(self) -> "Kind":
        return Kind.SHORT if self is Kind.LONG else Kind.LONG


#: hash: sha1 of a payload → crashes or failures so far.
ATTEMPTS = "inpainting:attempts"

#: list: JSON of jobs that were given up, oldest first.
DEAD = "inpainting:dead"


def sha1(payload: bytes) -> str:
    """What stands for a payload in the hash of attempts, as Redis' own `redis.sha1hex`."""
    return hashlib.sha1(payload, usedforsecurity=False).hexdigest()


def processing(worker: str, kind: Kind) -> str:
    """list: payloads that a worker claimed and has not finished, byte for byte as received."""
    return f"inpainting:processing:{worker}:{kind}"


def cleanup(worker: str) -> str:
    """list: payloads whose result is committed and whose inputs are not yet unlinked."""
    return f"inpainting:cleanup:{worker}"


def heartbeat(worker: str) -> str:
    """string with an expiry: who the worker is; its absence means that the worker is dead."""
    return f"inpainting:worker:{worker}"


def workers(namespace: str) -> str:
    """set: workers that were alive on this shared memory."""
    return f"inpainting:workers:{namespace}"


def reaper(namespace: str) -> str:
    """string with an expiry: the worker that reaps this namespace at present."""
    return f"inpainting:reaper:{namespace}"


def segments(namespace: str) -> str:
    """sorted set: `{segment} {request_id}` of committed results by expiry, in unix seconds.

    Score 0 marks a segment whose result was replaced before it was fetched: nobody else will
    ever unlink it. A negative score marks one that others than its writer have removed, or are
    about to, so that it must not be committed (again); its absolute value is when that may be
    forgotten. A segment that ends in a hyphen is the start of the names of those that a worker
    may yet write for a job that was taken away from it.
    """
    return f"inpainting:segments:{namespace}"


def result(request_id: str) -> str:
    """hash: the description of a result, read and deleted by the consumer."""
    return f"inpainting_result:{request_id}"
