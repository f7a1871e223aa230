"""Every Redis key of the worker, except the two queues, whose names are settings.

`worker` is a worker's id, `namespace` the shared memory that it sees (see `core.identity`).
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


#: hash: sha1 of a payload → its failed attempts so far, crashes included.
ATTEMPTS = "inpainting:attempts"

#: list: the dead-letter list, JSON of jobs that were given up, oldest first.
DEAD = "inpainting:dead"

#: hash: request id → its claimed and unfinished submissions, separated by spaces. Each is
#: `{sha1}:{time of the first claim}`, followed by `s` if it is superseded, or by `u` if the time of
#: its claim is unknown.
SUBMISSIONS = "inpainting:submissions"

#: hash: notes about crews and namespaces. Times are in unix seconds of Redis' clock.
#: `{namespace} {kinship}`: JSON of a crew: workers of one namespace that serve the same queues.
#: `{namespace} {kinship} seen`: when one of them was last alive; `… sighted`: they found segments.
#: `{namespace} clock`: the time by which results expire (see core/broker/lua/tick.lua).
#: `{namespace} fault`: `given up`, sha1 of a payload, time: a job was given up for a possible
#: device fault, and nothing has been delivered since; `held …`: since then jobs are held instead.
#: `epoch`: changes if the server loses its data.
CREWS = "inpainting:crews"

#: Matches the processing and cleanup lists of all workers, and no other lists.
LISTS_OF_WORKERS = "inpainting:[cp]*:*"

#: The types of the keys that all workers share.
TYPES = {ATTEMPTS: "hash", DEAD: "list", SUBMISSIONS: "hash", CREWS: "hash"}


def sha1(payload: bytes) -> str:
    """The digest that identifies a payload in Redis, as `redis.sha1hex` computes it."""
    return hashlib.sha1(payload, usedforsecurity=False).hexdigest()


def processing(worker: str, kind: Kind) -> str:
    """list: payloads that a worker claimed and has not finished, byte for byte as received."""
    return f"inpainting:processing:{worker}:{kind}"


def claims(worker: str) -> str:
    """hash: number of a claim → sha1 of its payload; `{number}:work` too while it is worked on."""
    return f"inpainting:claims:{worker}"


def delayed(queue: str) -> str:
    """sorted set: payloads that wait for another attempt, by due time, in seconds of Redis' clock.

    A second copy of the same payload has a suffix: a zero byte and a number.
    """
    return f"inpainting:delayed:{queue}"


def cleanup(worker: str) -> str:
    """list: payloads of finished jobs whose inputs are not yet unlinked."""
    return f"inpainting:cleanup:{worker}"


def heartbeat(worker: str) -> str:
    """string with an expiry: describes the worker; without it the worker is presumed dead."""
    return f"inpainting:worker:{worker}"


def workers(namespace: str) -> str:
    """set: the workers of this namespace, dead ones included until all is recovered."""
    return f"inpainting:workers:{namespace}"


def reaper(namespace: str) -> str:
    """string with an expiry: the lease of the worker that recovers this namespace at present."""
    return f"inpainting:reaper:{namespace}"


def segments(namespace: str) -> str:
    """sorted set: `{segment} {request_id}` of committed results by expiry, in unix seconds.

    A record is dropped soon after its result was fetched. Half a second is added to the score once
    the worker has the reply to its commit.

    Score 0 marks a segment whose result was replaced before it was fetched, or was superseded: a
    worker must unlink it, since no receiver knows of it. A negative score bars a segment from being
    committed (again), because another process has removed it or is about to; its absolute value is
    the time at which this may be forgotten. A name that ends in a hyphen is the prefix of segments
    that a worker may still write for a job that was taken from it.
    """
    return f"inpainting:segments:{namespace}"


def result(request_id: str) -> str:
    """hash: a result, read and deleted by the receiver."""
    return f"inpainting_result:{request_id}"
