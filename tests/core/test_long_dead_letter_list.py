"""A dead-letter list that is long, has long messages, fills its server, or is changed by others."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any, cast

import numpy as np
import pytest
import redis

from core import keys
from core.broker.dead_job import CHUNK_BYTES, HEAD_BYTES, heads, write_entry, write_truncated_entry
from core.broker.dead_list import DeadList, Filter
from core.broker.scripts import Script
from core.config import Settings
from core.identity import current_namespace
from core.pixels import shm
from harness.redis_server import RedisClient
from harness.wire import LONG
from harness.workers import OWN, segments
from tests.core.support import entry_of_an_earlier_version

#: Bytes of a long message.
LARGE = 900_000


@pytest.fixture
def dead(raw: RedisClient, settings: Settings) -> DeadList:
    return DeadList(settings, raw)


def entry(name: str, size: int = 0, **about: Any) -> bytes:
    """An entry for a message of at least `size` bytes, whose request is `name`."""
    payload = json.dumps({"request_id": name, "text": "x" * size})
    told = {"reason": "r", "queue": LONG, "namespace": current_namespace()}
    return write_entry(payload.encode(), **{**told, **about})


def with_inputs(name: str, size: int = 0) -> tuple[bytes, bytes]:
    """An entry whose job has an input in shared memory, and its message."""
    segment = f"img_shm_{OWN}{name}"
    shm.write(segment, np.zeros(10, np.uint8), 0o600)
    message = {"request_id": name, "text": "x" * size}
    payload = json.dumps({**message, "preprocessed_img_shm_info": {"shm_name": segment}}).encode()
    namespace = current_namespace()
    return write_entry(payload, reason="r", queue=LONG, namespace=namespace), payload


def names(jobs: Any) -> list[str]:
    return [job.request_id for job in jobs]


def fill(server: RedisClient) -> None:
    """Make a server refuse everything that needs memory."""
    server.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        server.rpush("another", "x")


def sent_bytes(server: RedisClient) -> int:
    """Bytes that a server has sent to its clients."""
    return int(server.info("stats")["total_net_output_bytes"])


def test_a_list_of_long_messages_is_read_by_a_few_megabytes_at_a_time(
    raw: RedisClient, dead: DeadList
) -> None:
    count = 100
    for number in range(count):
        raw.rpush(keys.DEAD, entry(str(number), LARGE))
    script = Script("heads", raw)
    reply = heads(script(first=0, count=count, most_bytes=CHUNK_BYTES, head_bytes=HEAD_BYTES))
    assert 1 <= len(reply) <= CHUNK_BYTES // LARGE + 2
    assert all(len(head) == HEAD_BYTES and length > LARGE for head, length in reply)

    before = sent_bytes(raw)
    tracemalloc.start()
    try:
        found = sum(job.length > LARGE for job in dead.matching(Filter()))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == count
    assert most < 2 << 20
    assert sent_bytes(raw) - before < count * (HEAD_BYTES + 1000)
    assert names(dead.latest(30)) == [str(number) for number in reversed(range(70, count))]


@pytest.mark.parametrize("size", [0, 3 * CHUNK_BYTES])
def test_a_chunk_has_at_least_one_entry_and_at_most_as_many_as_are_wanted(
    raw: RedisClient, size: int
) -> None:
    raw.rpush(keys.DEAD, *(entry(str(number), size) for number in range(3)))
    script = Script("heads", raw)
    assert len(script(first=1, count=1, most_bytes=CHUNK_BYTES, head_bytes=HEAD_BYTES)) == 2
    assert len(script(first=0, count=9, most_bytes=CHUNK_BYTES, head_bytes=HEAD_BYTES)) == (
        2 if size else 6
    )
    assert script(first=3, count=9, most_bytes=CHUNK_BYTES, head_bytes=HEAD_BYTES) == []


def test_long_messages_after_many_short_ones_do_not_make_a_chunk_much_larger(
    raw: RedisClient,
) -> None:
    raw.rpush(keys.DEAD, *(b"x" for _ in range(500)))
    raw.rpush(keys.DEAD, *(entry(str(number), LARGE) for number in range(60)))
    script = Script("heads", raw)
    reply = heads(script(first=0, count=1000, most_bytes=CHUNK_BYTES, head_bytes=HEAD_BYTES))
    assert 500 < len(reply) <= 500 + 32


def test_a_long_message_is_put_back_byte_for_byte(raw: RedisClient, dead: DeadList) -> None:
    raw.rpush(keys.DEAD, *(entry(str(number), LARGE) for number in range(3)))
    _, job, _ = dead.matching(Filter())
    assert job.payload is None
    assert dead.retry(job)
    (payload,) = raw.lrange(LONG, 0, -1)
    assert keys.sha1(payload) == job.sha1
    assert names(dead.matching(Filter())) == ["0", "2"]


def test_a_long_message_is_discarded_with_its_inputs(raw: RedisClient, dead: DeadList) -> None:
    raw.rpush(keys.DEAD, with_inputs("a", LARGE)[0])
    (job,) = dead.matching(Filter())
    assert dead.inputs_here(job)
    assert dead.discard(job)
    assert not segments()
    assert raw.keys() == []


def test_long_entries_of_earlier_versions_are_listed_retried_and_discarded(
    raw: RedisClient, dead: DeadList
) -> None:
    payloads = [
        json.dumps({"request_id": name, "text": "x" * 50_000 + name}).encode() for name in "abc"
    ]
    raw.rpush(
        keys.DEAD, *(entry_of_an_earlier_version(one, queue=LONG, reason="r") for one in payloads)
    )
    raw.rpush(keys.DEAD, entry("d"))
    a, b, c, _ = dead.matching(Filter())
    assert names([a, b, c]) == ["a", "b", "c"]
    assert dead.retry(b), "though only its end tells it from the others"
    assert raw.lrange(LONG, 0, -1) == [payloads[1]]
    assert dead.discard(c)
    assert names(dead.matching(Filter())) == ["a", "d"]
    assert names(dead.latest(10)) == ["d"], "it reads no whole entries"


def test_a_job_whose_message_was_not_kept_is_not_retried_and_can_be_discarded(
    raw: RedisClient, dead: DeadList
) -> None:
    raw.rpush(
        keys.DEAD, write_truncated_entry(9_000_000, "a" * 40, b"{", queue=LONG, reason="too_long")
    )
    (job,) = dead.matching(Filter())
    assert "was above MAX_MESSAGE_BYTES and was not kept" in dead.refusal(job)
    assert "9000000 bytes" in dead.refusal(job)
    with pytest.raises(ValueError, match="was not kept"):
        dead.retry(job)
    assert dead.discard(job)
    assert raw.keys() == []


# -- a full server ------------------------------------------------------------------------------


def test_everything_can_be_discarded_on_a_full_server(raw: RedisClient, dead: DeadList) -> None:
    for name in "abc":
        raw.rpush(keys.DEAD, with_inputs(name)[0])
    raw.rpush(keys.DEAD, entry("d"))
    fill(raw)
    assert all(dead.discard(job) for job in dead.matching(Filter()))
    assert raw.keys() == []
    assert not segments()


def test_a_job_can_be_retried_on_a_full_server(
    settings: Settings, raw: RedisClient, dead: DeadList
) -> None:
    one, payload = with_inputs("a")
    raw.rpush(keys.DEAD, one)
    fill(raw)
    (job,) = dead.matching(Filter())
    assert dead.retry(job)
    assert raw.lrange(LONG, 0, -1) == [payload]
    assert len(dead) == 0
    shm.unlink_all(segments(), settings.uids)


@pytest.mark.parametrize("key", [LONG, keys.ATTEMPTS])
def test_a_retry_changes_nothing_where_a_key_has_another_type(
    raw: RedisClient, dead: DeadList, key: str
) -> None:
    raw.rpush(keys.DEAD, entry("a"))
    raw.set(key, "text")
    (job,) = dead.matching(Filter())
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        dead.retry(job)
    assert len(dead) == 1
    assert sorted(raw.keys()) == sorted([keys.DEAD.encode(), key.encode()])


def test_a_discard_changes_nothing_where_a_key_has_another_type(
    settings: Settings, raw: RedisClient, dead: DeadList
) -> None:
    raw.rpush(keys.DEAD, with_inputs("a")[0])
    (job,) = dead.matching(Filter())
    for key in (LONG, keys.workers(job.namespace)):
        raw.set(key, "text")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            dead.discard(job)
        assert len(dead) == 1
        assert len(raw.keys()) == 2
        raw.delete(key)
    shm.unlink_all(segments(), settings.uids)


# -- changes while the list is read ----------------------------------------------------------------


def test_jobs_are_changed_while_the_list_is_read(raw: RedisClient, dead: DeadList) -> None:
    raw.rpush(keys.DEAD, *(entry(str(number)) for number in range(3500)))
    seen = []
    for job in dead.matching(Filter()):
        seen.append(int(job.request_id))
        if seen[-1] % 3:
            assert dead.discard(job)
    assert seen == list(range(3500))
    assert names(dead.matching(Filter())) == [str(number) for number in range(0, 3500, 3)]


def test_a_retried_job_that_dies_again_meanwhile_is_not_retried_without_end(
    raw: RedisClient, dead: DeadList
) -> None:
    entries = [entry(str(number)) for number in range(3)]
    raw.rpush(keys.DEAD, *entries)
    seen = []
    for job in dead.matching(Filter()):
        seen.append(job.request_id)
        assert dead.retry(job)
        raw.rpush(keys.DEAD, entries[len(seen) - 1])
    assert seen == ["0", "1", "2"]
    assert len(dead) == 3


@pytest.mark.parametrize("size", [0, 50_000])
def test_a_job_is_found_after_others_have_removed_those_before_it(
    raw: RedisClient, dead: DeadList, size: int
) -> None:
    raw.rpush(keys.DEAD, *(entry(str(number), size) for number in range(300)))
    jobs = list(dead.matching(Filter()))
    raw.lpop(keys.DEAD, 250)
    whole = dead.read(jobs[299])
    assert whole is not None
    assert whole.payload is not None
    assert whole.id == jobs[299].id
    assert dead.discard(jobs[299])
    assert not dead.discard(jobs[100])
    assert dead.read(jobs[100]) is None or size == 0
    assert not dead.retry(jobs[100])
    assert dead.discard(jobs[250])
    assert dead.retry(jobs[275])
    left = [str(number) for number in range(251, 299) if number != 275]
    assert names(dead.matching(Filter())) == left


def test_one_of_two_equal_entries_is_removed_at_a_time(raw: RedisClient, dead: DeadList) -> None:
    raw.rpush(keys.DEAD, *[entry("a")] * 3)
    first, second, third = dead.matching(Filter())
    assert dead.discard(third)
    assert dead.discard(first)
    assert len(dead) == 1
    assert dead.discard(second)
    assert not dead.discard(second)


def test_jobs_are_found_by_their_ids_from_the_tail_on(raw: RedisClient, dead: DeadList) -> None:
    raw.rpush(keys.DEAD, *(entry(str(number)) for number in range(1000)))
    ids = {job.request_id: job.id for job in dead.matching(Filter())}
    before = sent_bytes(raw)
    assert names(dead.named((ids["950"], ids["990"]))) == ["990", "950"]
    assert sent_bytes(raw) - before < 100_000
    changed = [dead.discard(job) for job in dead.named(tuple(ids[str(n)] for n in range(999)))]
    assert changed == [True] * 999
    assert names(dead.matching(Filter())) == ["999"]
    assert list(dead.named(("0" * 12,))) == []


def test_the_ids_of_jobs_do_not_depend_on_how_they_were_read(
    raw: RedisClient, dead: DeadList
) -> None:
    for size in (0, 10_000, 19_000, 25_000, LARGE):
        raw.rpush(keys.DEAD, entry(str(size), size))
    for job in dead.matching(Filter()):
        whole = dead.read(job)
        assert whole is not None
        assert whole.id == job.id
        assert [one.id for one in dead.latest(5) if one.request_id == job.request_id] == [job.id]
    entries = cast("list[bytes]", raw.lrange(keys.DEAD, 0, -1))
    assert len({job.id for job in dead.latest(5)}) == len(entries)
