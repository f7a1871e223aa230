"""Entries of the dead-letter list. The worker that gives up a job writes one.

An entry is a JSON object in UTF-8. The message is its last field, so that the head of an entry has
all other fields, however long the message is.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from core import keys
from core.contract import named_inputs, request_of

#: Bytes of an entry that hold all fields but the message, even if control characters make the
#: longest error and ids six times as long.
HEAD_BYTES: Final = 20 << 10

#: Largest number of entries whose heads are read at once, and bytes that Redis copies for it.
CHUNK_ENTRIES: Final = 1000
CHUNK_BYTES: Final = 4 << 20

#: Hexadecimal digits of an entry's id.
ID_LENGTH: Final = 12

LONGEST_ERROR: Final = 1000

#: Bytes of a message that an entry keeps in readable form if the message is not text or not kept.
READABLE_BYTES: Final = 1 << 10

#: A message whose JSON text is longer than itself by this factor is kept in base64.
LONGEST_ESCAPED: Final = 2

_BEFORE_MESSAGE: Final = b', "raw": "'
_EARLIER_VERSION: Final = b'{"raw": '

#: Bytes of the longest entry that earlier versions wrote: 8 MiB, escaped and in base64.
_LONGEST_EARLIER: Final = 64 << 20


@dataclass(frozen=True)
class DeadJob:
    """An entry of the dead-letter list. `at` is in unix seconds; unknown texts are empty.

    `head` and `entry_length` identify the entry. `place` is an upper bound of its index on the
    list: its index when it was read, or more. `payload` is the message; None if only the head was
    read, and the start of the message if it is `truncated`. `inputs` are the segments that the
    message names, allowed or not; `length` and `sha1` are the message's. `queue` is the name of the
    list that the job came from.
    """

    head: bytes
    entry_length: int
    place: int
    payload: bytes | None
    reason: str
    error: str
    attempts: int
    queue: str
    worker: str
    namespace: str
    at: float
    request_id: str
    image_id: str
    inputs: tuple[str, ...]
    length: int
    sha1: str
    truncated: bool

    @property
    def id(self) -> str:
        """The entry's id in commands: the start of the sha1 of its head."""
        return keys.sha1(self.head[:HEAD_BYTES])[:ID_LENGTH]


def write_entry(payload: bytes, **fields: str | int) -> bytes:
    """A new entry; `fields` are reason, error, attempts and so on.

    `raw` is the payload as text. If the payload is not UTF-8, or full of characters that JSON
    escapes, `raw` is its start and `raw_base64` the payload byte for byte.
    """
    request_id, image_id = request_of(payload) or ("", "")
    described: dict[str, Any] = {
        **_described(fields, len(payload), keys.sha1(payload)),
        "request_id": request_id,
        "image_id": image_id,
        "inputs": named_inputs(payload),
    }
    try:
        entry = _json({**described, "raw": payload.decode("utf-8")})
    except UnicodeDecodeError:
        entry = b""
    if entry and len(entry) <= LONGEST_ESCAPED * len(payload) + HEAD_BYTES:
        return entry
    encoded = base64.b64encode(payload).decode()
    return _json({**described, "raw": _readable(payload), "raw_base64": encoded})


def write_truncated_entry(length: int, sha1: str, head: bytes, **fields: str | int) -> bytes:
    """An entry for a message that was too long to be read: only its first bytes are known."""
    return _json({**_described(fields, length, sha1), "truncated": True, "raw": _readable(head)})


def parse_entry(data: bytes, entry_length: int | None = None, place: int = 0) -> DeadJob | None:
    """The job of an entry, or of the head of an entry of `entry_length` bytes.

    None if another program has written it, or if it has to be read whole (`is_unreadable_head`).
    """
    is_whole = entry_length in (None, len(data))
    try:
        entry: dict[str, Any] = json.loads(data if is_whole else _before_message(data))
        payload = _payload(entry) if is_whole else None
        is_described = "length" in entry or payload is None
        return DeadJob(
            head=data[:HEAD_BYTES] if is_described else data,
            entry_length=entry_length or len(data),
            place=place,
            payload=payload,
            reason=_text(entry, "reason"),
            error=_text(entry, "error"),
            attempts=int(entry.get("attempts", 0)),
            queue=_text(entry, "queue"),
            worker=_text(entry, "worker"),
            namespace=_text(entry, "namespace"),
            at=float(entry.get("at", 0)),
            **(_from_entry(entry) if is_described else _from_message(payload or b"")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def is_unreadable_head(head: bytes, entry_length: int) -> bool:
    """Whether an entry has to be read whole: earlier versions wrote the message first."""
    return len(head) < entry_length <= _LONGEST_EARLIER and head.startswith(_EARLIER_VERSION)


def heads(reply: Sequence[Any]) -> list[tuple[bytes, int]]:
    """Head and length of each entry, from a reply of heads.lua."""
    return list(zip(reply[::2], reply[1::2], strict=True))


def _described(fields: dict[str, str | int], length: int, sha1: str) -> dict[str, Any]:
    error = {"error": str(fields["error"])[:LONGEST_ERROR]} if "error" in fields else {}
    return {**fields, **error, "at": int(time.time()), "length": length, "sha1": sha1}


def _json(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace")


def _readable(payload: bytes) -> str:
    return payload[:READABLE_BYTES].decode("utf-8", "replace")


def _before_message(head: bytes) -> bytes:
    """The object in a head, without the message, which is cut.

    JSON escapes quotation marks within strings, so the marker cannot be part of a string.
    """
    return head[: head.index(_BEFORE_MESSAGE)] + b"}"


def _payload(entry: dict[str, Any]) -> bytes:
    if "raw_base64" in entry:
        return base64.b64decode(entry["raw_base64"])
    return str(entry["raw"]).encode("utf-8", "surrogateescape")


def _text(entry: dict[str, Any], name: str) -> str:
    """A text field, made printable and encodable."""
    return str(entry.get(name, "")).encode("utf-8", "replace").decode()


def _from_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of a DeadJob that describe the message, from its entry."""
    return {
        "request_id": _text(entry, "request_id"),
        "image_id": _text(entry, "image_id"),
        "inputs": tuple(map(str, entry.get("inputs", ()))),
        "length": int(entry["length"]),
        "sha1": _text(entry, "sha1"),
        "truncated": entry.get("truncated") is True,
    }


def _from_message(payload: bytes) -> dict[str, Any]:
    """The same, from the message: entries of earlier versions do not describe it."""
    request_id, image_id = request_of(payload) or ("", "")
    return {
        "request_id": request_id,
        "image_id": image_id,
        "inputs": tuple(named_inputs(payload)),
        "length": len(payload),
        "sha1": keys.sha1(payload),
        "truncated": False,
    }
