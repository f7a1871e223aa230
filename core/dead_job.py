"""An entry of the dead list: written by the worker that gives a job up, read by everybody else."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from core import keys
from core.contract import request_of

#: Hexadecimal digits of an entry's id.
ID_LENGTH: Final = 12


@dataclass(frozen=True)
class DeadJob:
    """An entry of the dead list. `at` is in unix seconds; unknown texts are empty.

    `queue` is the name of the list that the job came from.
    """

    entry: bytes
    payload: bytes
    reason: str
    error: str
    attempts: int
    queue: str
    worker: str
    namespace: str
    at: float

    @cached_property
    def id(self) -> str:
        """What names the entry in commands: the start of its sha1."""
        return keys.sha1(self.entry)[:ID_LENGTH]

    @cached_property
    def request(self) -> tuple[str, str] | None:
        """Request and image id, where the message has them."""
        return request_of(self.payload)

    @property
    def request_id(self) -> str:
        return self.request[0] if self.request else ""

    @property
    def image_id(self) -> str:
        return self.request[1] if self.request else ""


def write_entry(payload: bytes, **about: str | int) -> str:
    """An entry, as it is put on the list now; `about` is reason, error, attempts and so on.

    `raw` is the payload as text. A payload that is not UTF-8 is in `raw_base64` too, byte for byte.
    """
    entry: dict[str, str | int] = {"raw": payload.decode("utf-8", "replace"), **about}
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError:
        entry["raw_base64"] = base64.b64encode(payload).decode()
    entry["at"] = int(time.time())
    return json.dumps(entry)


def parse_entry(entry: bytes) -> DeadJob | None:
    """The job of an entry; None if somebody else has written it."""
    try:
        about: dict[str, Any] = json.loads(entry)
        if "raw_base64" in about:
            payload = base64.b64decode(about["raw_base64"])
        else:
            payload = str(about["raw"]).encode("utf-8", "surrogateescape")
        return DeadJob(
            entry=entry,
            payload=payload,
            reason=str(about.get("reason", "")),
            error=str(about.get("error", "")),
            attempts=int(about.get("attempts", 0)),
            queue=str(about.get("queue", "")),
            worker=str(about.get("worker", "")),
            namespace=str(about.get("namespace", "")),
            at=float(about.get("at", 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
