"""Messages of 1 to 100 MB: each must end on the dead-letter list, cut to its first KiB."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.keys import sha1

SMALLEST, LARGEST = 1_050_000, 100_000_000
START_BYTES: Final = 1024

CONTENTS: Final = ("bytes", "text", "control characters", "json")


@dataclass(frozen=True, slots=True)
class LargeMessage:
    """What is known of such a message; `is_sent` is whether Redis has confirmed it."""

    length: int
    sha1: str
    start: bytes
    is_sent: bool


def make(chosen: random.Random, request: str) -> bytes:
    """A message of any size; small ones are as likely as large ones, by the logarithm."""
    length = int(SMALLEST * (LARGEST / SMALLEST) ** chosen.random())
    content = chosen.choice(CONTENTS)
    if content == "json":
        return json.dumps({"request_id": request, "image_id": "1.jpg", "x": "x" * length}).encode()
    unit = {"bytes": b"\xff", "text": b"large ", "control characters": b"\x00\x1b\x07\r\n"}[content]
    return (unit * (length // len(unit) + 1))[:length]


def describe(payload: bytes, *, is_sent: bool) -> LargeMessage:
    """What is kept of a message that was pushed."""
    return LargeMessage(len(payload), sha1(payload), payload[:START_BYTES], is_sent)


def check(
    messages: Sequence[LargeMessage], entries: Sequence[dict[str, Any]], *, may_be_gone: bool
) -> list[str]:
    """What is wrong with the entries of the dead-letter list that belong to no other job.

    `may_be_gone` says that a namespace was dissolved, together with what its workers had refused.
    """
    wrong: list[str] = []
    left = [(_sha1_of(entry), entry) for entry in entries]
    for message in messages:
        own = [entry for sha1, entry in left if sha1 == message.sha1]
        left = [(sha1, entry) for sha1, entry in left if sha1 != message.sha1]
        about = f"message of {message.length} bytes ({message.start[:12]!r}…)"
        if len(own) > 1 or (message.is_sent and not own and not may_be_gone):
            wrong.append(f"{about} is {len(own)} times on the dead-letter list")
        for entry in own:
            expected = {
                "truncated": True,
                "length": message.length,
                "raw": message.start.decode("utf-8", "replace"),
            }
            wrong += [
                f"{about}: {name} is {str(entry.get(name))[:40]!r} in its entry"
                for name, value in expected.items()
                if entry.get(name) != value
            ]
    wrong += [f"no message was sent for a dead entry: {str(entry)[:200]}" for _, entry in left]
    return wrong


def _sha1_of(entry: dict[str, Any]) -> str:
    """Of the message that an entry stands for."""
    if "sha1" in entry:
        return str(entry["sha1"])
    if "raw_base64" in entry:
        return sha1(base64.b64decode(entry["raw_base64"]))
    return sha1(str(entry["raw"]).encode("utf-8", "surrogateescape"))
