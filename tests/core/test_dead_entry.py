"""The format of an entry of the dead-letter list."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from core import keys
from core.broker.dead_job import (
    HEAD_BYTES,
    DeadJob,
    is_unreadable_head,
    parse_entry,
    write_entry,
    write_truncated_entry,
)
from core.contract import MAX_ID_LENGTH
from tests.core.support import entry_of_an_earlier_version

ABOUT: dict[str, Any] = {
    "reason": "crashed",
    "error": "it did",
    "attempts": 3,
    "queue": "q",
    "worker": "w",
    "namespace": "n",
}

#: Segments that the messages below name.
INPUTS = ("img_shm_a", "mask_shm_a")


def message(**fields: Any) -> bytes:
    named: dict[str, Any] = {"request_id": "r", "image_id": "a.jpg", **fields}
    kinds = ("preprocessed_img_shm_info", "preprocessed_mask_shm_info")
    for field, name in zip(kinds, INPUTS, strict=True):
        named[field] = {"shm_name": name}
    return json.dumps(named, ensure_ascii=False).encode()


def parsed(entry: bytes) -> DeadJob:
    job = parse_entry(entry)
    assert job is not None
    return job


def head_of(entry: bytes) -> DeadJob:
    """The job as it is read from the entry's head."""
    job = parse_entry(entry[:HEAD_BYTES], len(entry))
    assert job is not None
    return job


def test_a_message_in_utf_8_is_in_its_entry_once_and_last() -> None:
    payload = message(text="페이지 é 😀")
    entry = write_entry(payload, **ABOUT)
    about = json.loads(entry)
    assert list(about)[-1] == "raw"
    assert about["raw"].encode() == payload
    assert "raw_base64" not in about
    assert entry.count("페이지".encode()) == 1
    assert len(entry) < len(payload) + 600
    assert {name: about[name] for name in ABOUT} == ABOUT
    assert about["at"] > 0
    assert (about["request_id"], about["image_id"]) == ("r", "a.jpg")
    assert about["inputs"] == list(INPUTS)
    assert (about["length"], about["sha1"]) == (len(payload), keys.sha1(payload))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b'", "raw": "',
        b'{"request_id": "a\\u0000\\", \\"raw\\": \\"b"}',
        bytes(range(128)),
        b"\xff\x00{",
        "\u2028\ufeff\ud7ff😀".encode(),
        bytes(100_000),
        b"\xff" * 100_000,
        b'"' * 100_000,
    ],
)
def test_every_message_is_read_back_byte_for_byte(payload: bytes) -> None:
    entry = write_entry(payload, **ABOUT)
    json.loads(entry.decode("utf-8"))
    assert len(entry) <= 2 * len(payload) + HEAD_BYTES
    job = parsed(entry)
    assert job.payload == payload
    assert (job.length, job.sha1) == (len(payload), keys.sha1(payload))
    assert job.id == head_of(entry).id


def test_a_message_that_is_not_utf_8_has_a_start_that_people_can_read() -> None:
    payload = b"a page\xff" + b"\xff" * 5000
    about = json.loads(write_entry(payload, **ABOUT))
    assert base64.b64decode(about["raw_base64"]) == payload
    assert about["raw"].startswith("a page\ufffd")
    assert len(about["raw"]) == 1024


def test_a_message_of_nothing_but_escapes_is_not_kept_six_times_as_long() -> None:
    about = json.loads(write_entry(bytes(1_000_000), **ABOUT))
    assert base64.b64decode(about["raw_base64"]) == bytes(1_000_000)
    assert about["raw"] == "\0" * 1024


def test_the_head_of_an_entry_says_everything_but_the_message() -> None:
    worst = "\x01" * MAX_ID_LENGTH
    payload = message(request_id=worst, image_id=worst, text="x" * 1_000_000)
    queue = "q" * 1000
    entry = write_entry(payload, **{**ABOUT, "queue": queue, "error": "\x01" * 5000})
    job, whole = head_of(entry), parsed(entry)
    assert job.payload is None
    assert whole.payload == payload
    assert (job.request_id, job.image_id, job.inputs) == (worst, worst, INPUTS)
    assert (job.queue, job.error) == (queue, "\x01" * 1000)
    assert (job.length, job.sha1) == (len(payload), keys.sha1(payload))
    assert job.id == whole.id == keys.sha1(entry[:HEAD_BYTES])[:12]
    assert job.head == whole.head


def test_entries_of_long_messages_that_differ_at_their_end_have_different_ids() -> None:
    one, other = (message(text="x" * 50_000 + end) for end in "ab")
    assert head_of(write_entry(one, **ABOUT)).id != head_of(write_entry(other, **ABOUT)).id


def test_of_a_message_that_is_too_long_its_length_sha1_and_start_are_kept() -> None:
    entry = write_truncated_entry(3_000_000, "a" * 40, b'{"request_id": "\xff' * 1000, **ABOUT)
    about = json.loads(entry)
    assert about["truncated"] is True
    assert len(about["raw"]) == 1024
    job = parsed(entry)
    assert job.truncated
    assert (job.length, job.sha1, job.inputs) == (3_000_000, "a" * 40, ())
    assert (job.reason, job.error, job.attempts) == ("crashed", "it did", 3)


@pytest.mark.parametrize("payload", [message(text="é"), b"\xff\x00{"])
def test_an_entry_of_an_earlier_version_is_read(payload: bytes) -> None:
    job = parsed(entry_of_an_earlier_version(payload, **ABOUT))
    assert job.payload == payload
    assert (job.reason, job.attempts, job.at) == ("crashed", 3, 5)
    assert (job.length, job.sha1, job.truncated) == (len(payload), keys.sha1(payload), False)
    if payload != b"\xff\x00{":
        assert (job.request_id, job.image_id, job.inputs) == ("r", "a.jpg", INPUTS)


def test_a_long_entry_of_an_earlier_version_has_to_be_read_whole() -> None:
    entry = entry_of_an_earlier_version(message(text="x" * 50_000), **ABOUT)
    assert parse_entry(entry[:HEAD_BYTES], len(entry)) is None
    assert is_unreadable_head(entry[:HEAD_BYTES], len(entry))
    assert parsed(entry).head == entry, "its head would not tell it from others"
    new = write_entry(message(text="x" * 50_000), **ABOUT)
    assert not is_unreadable_head(new[:HEAD_BYTES], len(new))


def test_texts_that_are_not_unicode_are_made_so() -> None:
    entry = write_entry(b"{}", **{**ABOUT, "error": "\ud800"})
    assert parsed(entry).error == "?"
    strange = b'{"length": 2, "request_id": "\\ud800", "error": "\\udfff", "raw": "{}"}'
    job = parsed(strange)
    f"{job.request_id}{job.error}".encode()


@pytest.mark.parametrize(
    "entry",
    [
        b'{"length": "x", "raw": "x"}',
        b'{"length": 1e999, "raw": "x"}',
        b'{"length": 1, "inputs": 5, "raw": "x"}',
        b'{"length": 1}',
    ],
)
def test_an_entry_that_somebody_else_has_written_is_none(entry: bytes) -> None:
    assert parse_entry(entry) is None
