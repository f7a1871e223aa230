"""Claims: payloads that a worker has taken from a queue and not finished."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from core import keys
from core.contract import request_of
from core.keys import Kind


class Ending(StrEnum):
    """What a call that ends a claim has done."""

    COMMITTED = "committed"
    FAILED = "failed"  # given up
    WAITS = "waits"  # in the delayed set, or at the tail of its queue
    RELEASED = "released"  # at the head of its queue
    LANDED = "landed"  # an earlier call did it, and its reply was lost
    EXPIRED = "expired"
    SUPERSEDED = "superseded"  # its request has a newer result
    HELD = "held"  # not ended: the device is at fault
    LOST = "lost"  # it was no longer this worker's


@dataclass(frozen=True)
class Claim:
    """A payload that this worker has claimed, byte for byte as it was received.

    `number` identifies the claim within this worker; 0 if it has none.
    """

    kind: Kind
    payload: bytes
    number: int = field(default=0, compare=False)

    @property
    def sha1(self) -> str:
        return keys.sha1(self.payload)

    @cached_property
    def request(self) -> tuple[str, str] | None:
        """Request and image id, as `request_of`; the payload may be large and is parsed once."""
        return request_of(self.payload)

    @property
    def request_id(self) -> str:
        """Empty where the message has none."""
        return self.request[0] if self.request else ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What Redis knows of a claimed job: failed attempts so far, and whether it is superseded."""

    attempts: int
    superseded: bool = False


def barred_until(result_ttl_s: float) -> int:
    """The score, in the set of segments, of a segment that is barred from being committed.

    Its absolute value is a time by which no worker can still commit it.
    """
    return -int(time.time() + result_ttl_s)
