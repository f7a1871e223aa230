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

#: hash: request id → its claimed and unfinished submissions, separated by spaces: each
#: `{sha1}:{time of the first claim}`, with an `s` behind it if its result would come too late, or a
#: `u` if nobody knows when it was claimed.
SUBMISSIONS = "inpainting:submissions"

#: hash: what workers know of each other. Times are in unix seconds of Redis' clock.
#: `{namespace} {kinship}`: JSON of a crew, workers of one shared memory and the same queues.
#: `{namespace} {kinship} seen`: when one of them was last alive; `… sighted`: they found segments.
#: `{namespace} clock`: the time by which results expire (see lua/tick.lua).
#: `{namespace} fault`: `given up`, the sha1 of a payload and when, if a job was given up for what
#: may be a fault of the device and nothing was delivered since; `held …`, if another one would be.
#: `epoch`: changes if the server loses its data.
CREWS = "inpainting:crews"

#: Matches all lists of all workers, for processing and cleanup; of lists, it matches no others.
LISTS_OF_WORKERS = "inpainting:[cp]*:*"

#: The types of the keys that all workers of a server share.
TYPES = {ATTEMPTS: "hash", DEAD: "list", SUBMISSIONS: "hash", CREWS: "hash"}


def sha1(payload: bytes) -> str:
    """What stands for a payload in the books, the same as Redis' own `redis.sha1hex`."""
    return hashlib.sha1(payload, usedforsecurity=False).hexdigest()


def processing(worker: str, kind: Kind) -> str:
    """list: payloads that a worker claimed and has not finished, byte for byte as received."""
    return f"inpainting:processing:{worker}:{kind}"


def claims(worker: str) -> str:
    """hash: number of a claim → sha1 of its payload; and `{number}:work` while it is worked on."""
    return f"inpainting:claims:{worker}"


def delayed(queue: str) -> str:
    """sorted set: payloads that wait for another try, by due time in unix seconds of Redis' clock.

    A second copy of the same payload has a zero byte and a number behind it.
    """
    return f"inpainting:delayed:{queue}"


def cleanup(worker: str) -> str:
    """list: payloads that are finished with and whose inputs are not yet unlinked."""
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

    An entry is dropped soon after its result was fetched. Half a second is added to the score once
    the worker has heard of its commit.

    Score 0 marks a segment whose result was replaced before it was fetched, or was superseded:
    nobody else will ever unlink it. A negative score marks one that others than its writer have
    removed, or are about to, so that it must not be committed (again); its absolute value is when
    that may be forgotten. A name that ends in a hyphen is the start of the names of segments that
    a worker may yet write for a job that was taken away from it.
    """
    return f"inpainting:segments:{namespace}"


def result(request_id: str) -> str:
    """hash: the description of a result, read and deleted by the consumer."""
    return f"inpainting_result:{request_id}"
