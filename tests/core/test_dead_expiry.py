"""Dead jobs whose time is over, on lists of every length."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection
from typing import Any

import pytest

from core import keys
from core.broker.connection import async_client
from core.broker.dead_job import DeadJob
from core.broker.scripts import load_scripts
from core.config import Settings
from core.recovery import dead_expiry
from core.recovery.dead_expiry import CHUNK, IDLE_CHUNKS, DeadExpiry
from harness.redis_server import RedisClient
from tests.core.support import entry_of_an_earlier_version

MINE, OTHERS = "mine", "others"
PAST = 1000


def entry(name: str, queue: str = MINE, at: int = PAST, size: int = 0) -> bytes:
    """An entry for a job with one input, `img_shm_{name}`."""
    message = {"request_id": name, "preprocessed_img_shm_info": {"shm_name": f"img_shm_{name}"}}
    about: dict[str, Any] = {
        "queue": queue,
        "at": at,
        "request_id": name,
        "image_id": "",
        "length": size,
        "inputs": [f"img_shm_{name}", "not_allowed"],
        "sha1": name,
    }
    return json.dumps({**about, "raw": json.dumps({**message, "text": "x" * size})}).encode()


def is_mine(job: DeadJob) -> bool:
    return job.queue == MINE


def expire(settings: Settings, passes: int = 1, unlink: Any = None) -> list[str]:
    """Some passes; the names that were unlinked."""
    unlinked: list[str] = []

    async def note(names: Collection[str]) -> None:
        unlinked.extend(names)

    async def main() -> None:
        client = async_client(settings.redis_url)
        expiry = DeadExpiry(client, load_scripts(client), settings, unlink or note)
        try:
            for _ in range(passes):
                await expiry.run(is_mine, PAST + settings.dead_ttl_s)
        finally:
            await client.aclose()

    asyncio.run(main())
    return unlinked


def test_all_that_is_due_is_dropped_in_one_pass(settings: Settings, raw: RedisClient) -> None:
    count = 30 * CHUNK + 5
    raw.rpush(keys.DEAD, *(entry(str(number)) for number in range(count)))
    assert expire(settings) == [f"img_shm_{number}" for number in range(count)]
    assert raw.keys() == []


def test_only_what_is_mine_and_due_is_dropped(settings: Settings, raw: RedisClient) -> None:
    kept = [
        entry("foreign", OTHERS),
        entry("young", at=PAST + 1),
        entry("timeless", at=0),
        b"written by hand",
        b"x" * 100_000,
    ]
    mixed = []
    for number, one in enumerate(kept):
        mixed += [entry(f"a{number}"), one, entry(f"b{number}")]
    raw.rpush(keys.DEAD, *mixed)
    unlinked = expire(settings)
    assert unlinked == [
        f"img_shm_{letter}{number}" for number in range(len(kept)) for letter in "ab"
    ]
    assert raw.lrange(keys.DEAD, 0, -1) == kept


def test_long_entries_are_dropped_by_their_heads(settings: Settings, raw: RedisClient) -> None:
    for number in range(20):
        raw.rpush(keys.DEAD, entry(str(number), size=900_000))
    before = raw.info("stats")
    expire(settings)
    after = raw.info("stats")
    assert raw.keys() == []
    for way in ("total_net_output_bytes", "total_net_input_bytes"):
        assert after[way] - before[way] < 20 * 25_000


def test_entries_of_earlier_versions_are_dropped(settings: Settings, raw: RedisClient) -> None:
    for size in (0, 50_000):
        message = {"text": "x" * size, "preprocessed_img_shm_info": {"shm_name": f"img_shm_{size}"}}
        payload = json.dumps(message).encode()
        raw.rpush(keys.DEAD, entry_of_an_earlier_version(payload, queue=MINE))
    assert expire(settings) == ["img_shm_0", "img_shm_50000"]
    assert raw.keys() == []


def test_a_pass_over_a_list_without_anything_due_ends_and_the_next_goes_on_there(
    settings: Settings, raw: RedisClient
) -> None:
    kept = [f"{number}" for number in range(IDLE_CHUNKS * CHUNK)]
    raw.rpush(keys.DEAD, *kept, entry("tail"))
    assert expire(settings) == []
    assert expire(settings, passes=2) == ["img_shm_tail"]
    raw.lpush(keys.DEAD, entry("head"))
    assert expire(settings) == ["img_shm_head"]
    assert raw.llen(keys.DEAD) == len(kept)


def test_a_pass_that_takes_long_ends_and_the_next_goes_on_there(
    settings: Settings, raw: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.rpush(keys.DEAD, *(entry(str(number)) for number in range(CHUNK + 1)))
    monkeypatch.setattr(dead_expiry, "PASS_S", 0.05)

    async def slow(_: Collection[str]) -> None:
        await asyncio.sleep(0.1)

    expire(settings, unlink=slow)
    assert raw.llen(keys.DEAD) == 1
    expire(settings, unlink=slow)
    assert raw.keys() == []


def test_what_others_remove_meanwhile_does_not_take_others_entries_along(
    settings: Settings, raw: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    young = [entry(f"young{number}", at=PAST + 1) for number in range(3)]
    raw.rpush(keys.DEAD, young[0], entry("a"), young[1], entry("b"), young[2])
    removed: list[object] = []

    async def remove(_: Collection[str]) -> None:
        if not removed:
            removed.append(raw.lpop(keys.DEAD))

    with caplog.at_level(logging.INFO):
        expire(settings, unlink=remove)
    assert raw.lrange(keys.DEAD, 0, -1) == young[1:]
    for name in "ab":
        assert caplog.text.count(f"the dead job of request {name} is dropped") == 1


def test_dead_jobs_expire_on_a_full_server(settings: Settings, raw: RedisClient) -> None:
    raw.rpush(keys.DEAD, entry("a"), entry("b", OTHERS))
    raw.config_set("maxmemory", 1)
    assert expire(settings) == ["img_shm_a"]
    assert raw.llen(keys.DEAD) == 1


def test_inputs_are_unlinked_before_their_entry_is_dropped(
    settings: Settings, raw: RedisClient
) -> None:
    raw.rpush(keys.DEAD, entry("a"))

    async def killed(_: Collection[str]) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        expire(settings, unlink=killed)
    assert raw.llen(keys.DEAD) == 1


def test_what_is_due_behind_many_entries_of_others_is_dropped_in_one_pass(
    settings: Settings, raw: RedisClient
) -> None:
    raw.rpush(keys.DEAD, *(entry(str(number), OTHERS) for number in range(4 * CHUNK)))
    raw.rpush(keys.DEAD, *(entry(str(number)) for number in range(4 * CHUNK)))
    assert len(expire(settings)) == 4 * CHUNK
    assert raw.llen(keys.DEAD) == 4 * CHUNK
