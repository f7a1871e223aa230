"""The account finds every deviation that it is made to find."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable

import pytest

from chaos.account import (
    LEAST_CRASHES,
    Account,
    Evidence,
    count_leftovers,
    is_idle,
    jobs_account,
    remove_unsent,
)
from chaos.jobs import QUEUES, SHARE, Case, Jobs
from chaos.large import SMALLEST, describe, make
from chaos.outcomes import OUTCOMES, Outcomes
from chaos.receiver import VERDICTS
from core import keys
from harness.redis_server import RedisClient
from harness.workers import OWN


@pytest.fixture
def jobs(shm_baseline: None) -> Jobs:
    return Jobs(f"shm_{OWN}x", seed=1)  # a tag by which the tests know their own segments


@pytest.fixture
def find(jobs: Jobs) -> Callable[[Case], int]:
    """The first job of a case."""
    return lambda case: next(number for number in range(100_000) if jobs.case(number) is case)


def deliver(
    client: RedisClient, jobs: Jobs, number: int, name: str, problem: str = "", edition: int = 0
) -> None:
    verdict = {"request": jobs.request(number), "problem": problem, "edition": edition}
    order = client.hlen(VERDICTS)
    client.hset(VERDICTS, name, json.dumps({**verdict, "order": order}))


def die(client: RedisClient, jobs: Jobs, number: int, reason: str, at: float = 0) -> None:
    entry = {"raw": jobs.payload(number).decode(), "reason": reason, "at": at}
    client.rpush(keys.DEAD, json.dumps(entry))


def account(
    client: RedisClient,
    jobs: Jobs,
    *sent: int,
    perhaps: int | None = None,
    evidence: Evidence | None = None,
) -> Account:
    begun = {*sent} | ({perhaps} if perhaps is not None else set())
    return jobs_account(client, jobs, begun, {*sent}, evidence)


def test_jobs_that_end_as_they_must_are_no_deviation(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    good, bad, late, twice = map(find, (Case.GOOD, Case.NO_JSON, Case.LATE, Case.TWICE))
    deliver(client, jobs, good, "a")
    die(client, jobs, bad, "bad_json")
    die(client, jobs, late, "segment_missing")
    deliver(client, jobs, twice, "b")
    die(client, jobs, twice, "segment_missing")
    found = account(client, jobs, good, bad, late, twice, perhaps=good + 1)
    assert found.wrong == []
    assert (found.jobs, found.unsure, found.delivered, found.refused) == (4, 1, 2, 1)
    assert found.given_up == {"segment_missing": 1}


def tell(
    client: RedisClient, jobs: Jobs, number: int, reason: str = "", status: str = "done"
) -> None:
    status = "failed" if reason else status
    outcome = {"request_id": jobs.request(number), "status": status, "reason": reason or None}
    client.rpush(OUTCOMES, json.dumps(outcome))


def test_outcomes_that_agree_with_what_became_of_the_jobs_are_no_deviation(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    cases = (Case.GOOD, Case.NO_JSON, Case.TWICE, Case.BAD_PADDING, Case.EXPIRED, Case.HASTY)
    good, broken, twice, bad, expired, hasty = map(find, cases)
    for number in (good, twice, hasty):
        deliver(client, jobs, number, f"s{number}")
        tell(client, jobs, number)
    die(client, jobs, broken, "bad_json")
    die(client, jobs, bad, "bad_padding")
    tell(client, jobs, bad, "bad_padding")
    tell(client, jobs, expired, "expired")
    evidence = Evidence(outcomes=Outcomes(client, jobs))
    found = account(client, jobs, *map(find, cases), evidence=evidence)
    assert found.wrong == []
    assert (found.expired, found.delivered) == (1, 3)


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ([""], "0 outcomes are done, 1 results"),
        (["", "done", "done"], "2 outcomes are done, 1 results"),
        (["", "done", "bad_padding"], "failed by"),
        (["", "done", "expired"], "although it has no time"),
    ],
)
def test_outcomes_that_are_missing_or_too_many_are_found(
    client: RedisClient,
    jobs: Jobs,
    find: Callable[[Case], int],
    told: list[str],
    complaint: str,
) -> None:
    good = find(Case.GOOD)
    deliver(client, jobs, good, "a")
    for reason in told[1:]:
        tell(client, jobs, good, "" if reason == "done" else reason)
    found = account(client, jobs, good, evidence=Evidence(outcomes=Outcomes(client, jobs)))
    assert any(complaint in wrong for wrong in found.wrong), found.wrong


def test_an_expired_job_that_nobody_was_told_of_is_lost(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    evidence = Evidence(outcomes=Outcomes(client, jobs))
    assert account(client, jobs, find(Case.EXPIRED), evidence=evidence).lost == 1


def test_a_lost_job_is_found(client: RedisClient, jobs: Jobs, find: Callable[[Case], int]) -> None:
    found = account(client, jobs, find(Case.GOOD))
    assert found.lost == 1
    assert "lost" in found.wrong[0]


def test_a_job_delivered_twice_is_found(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.GOOD)
    deliver(client, jobs, number, "a")
    deliver(client, jobs, number, "b")
    found = account(client, jobs, number)
    assert found.too_often == 1
    assert "too often" in found.wrong[0]


def test_a_job_both_delivered_and_dead_is_found(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.LATE)
    deliver(client, jobs, number, "a")
    die(client, jobs, number, "segment_missing")
    assert "too many places" in account(client, jobs, number).wrong[0]


def test_a_good_job_that_is_dead_without_need_is_found(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.GOOD)
    die(client, jobs, number, "segment_missing")
    assert "without need" in account(client, jobs, number).wrong[0]


@pytest.mark.parametrize(
    ("crashes", "is_wrong"), [(LEAST_CRASHES - 1, True), (LEAST_CRASHES, False)]
)
def test_a_good_job_may_only_be_given_up_that_was_computed_in_that_many_crashes(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int], crashes: int, is_wrong: bool
) -> None:
    number = find(Case.GOOD)
    jobs.put(number)
    die(client, jobs, number, "crashed")
    found = account(client, jobs, number, evidence=Evidence(Counter({number: crashes})))
    assert (found.wrong != []) is is_wrong
    assert found.given_up == {"crashed": 1}
    jobs.remove(number)


def test_a_device_that_kills_everything_may_cost_one_job(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    first = find(Case.GOOD)
    good = [number for number in range(first, first + 100) if jobs.case(number) is Case.GOOD][:2]
    evidence = Evidence(Counter(dict.fromkeys(good, 9)), outages=[(1000.5, 1009.5)])
    for number, wrong in zip(good, (0, 1), strict=True):
        jobs.put(number)
        die(client, jobs, number, "crashed", at=1005)
        assert len(account(client, jobs, *good[: wrong + 1], evidence=evidence).wrong) == wrong
    for number in good:
        jobs.remove(number)


def test_the_older_edition_of_a_request_needs_no_end_and_must_not_come_last(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.AGAIN)
    deliver(client, jobs, number, "a", edition=1)
    assert account(client, jobs, number).wrong == []
    deliver(client, jobs, number, "b", edition=0)
    assert "the older edition came after" in account(client, jobs, number).wrong[0]


def test_the_newer_edition_of_a_request_must_have_an_end(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.AGAIN)
    deliver(client, jobs, number, "a", edition=0)
    assert account(client, jobs, number).lost == 1
    deliver(client, jobs, number, "b", edition=1)
    assert account(client, jobs, number).wrong == []


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, 0),
        ({"raw": "\ufffd" * 1025}, 1),
        ({"length": 5}, 1),
        ({"truncated": False}, 1),
        ({"sha1": "0"}, 2),  # it is missing, and another one is there
    ],
)
def test_a_large_message_must_be_on_the_dead_letter_list_once_and_cut(
    client: RedisClient, jobs: Jobs, change: dict[str, object], wrong: int
) -> None:
    payload = b"\xff" * 5000
    entry = {
        "raw": "\ufffd" * 1024,
        "truncated": True,
        "length": 5000,
        "reason": "too_large",
        "sha1": keys.sha1(payload),
        **change,
    }
    client.rpush(keys.DEAD, json.dumps(entry))
    evidence = Evidence(large=[describe(payload, is_sent=True)])
    assert len(account(client, jobs, evidence=evidence).wrong) == wrong


def test_a_large_message_may_be_gone_with_the_namespace_of_a_guest_that_refused_it(
    client: RedisClient, jobs: Jobs
) -> None:
    messages = [describe(b"\xff" * 5000, is_sent=True)]
    assert account(client, jobs, evidence=Evidence(large=messages, had_guests=True)).wrong == []
    assert len(account(client, jobs, evidence=Evidence(large=messages)).wrong) == 1


def test_large_messages_are_of_all_kinds_and_differ(jobs: Jobs) -> None:
    class Small(random.Random):
        def random(self) -> float:
            return super().random() / 10

    messages = [make(Small(seed), f"{jobs.tag}large-1") for seed in range(20)]
    assert {message[:1] for message in messages} == {b"\xff", b"l", b"\x00", b"{"}
    assert len({*messages}) == 20
    assert min(map(len, messages)) >= SMALLEST
    assert all(jobs.find(message.decode("utf-8", "replace")) is None for message in messages)


def test_inputs_that_a_dead_job_has_lost_are_found(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.POISON)
    die(client, jobs, number, "crashed")
    assert "inputs of a dead job are gone" in account(client, jobs, number).wrong[0]
    jobs.put(number)
    assert account(client, jobs, number).wrong == []
    assert jobs.remove(number) == 2


def test_a_result_that_is_not_the_jobs_own_is_found(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.GOOD)
    deliver(client, jobs, number, "a", "other pixels")
    assert "other pixels" in account(client, jobs, number).wrong[0]


def test_a_segment_and_a_key_that_are_left_are_found(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    jobs.put(find(Case.GOOD))
    client.set("inpainting:processing:x:long", "")
    for lasting in ("segments:boot-1", "reaper:boot-1"):
        client.set(f"inpainting:{lasting}", "")
    client.hset("inpainting:crews", "boot-1 abcd", 1)
    found = Account()
    count_leftovers(found, client, jobs, "boot-1")
    assert (found.segments_left, found.keys_left, len(found.wrong)) == (2, 1, 3)
    jobs.remove(find(Case.GOOD))


def test_what_is_left_of_a_namespace_that_is_gone_is_found(client: RedisClient, jobs: Jobs) -> None:
    for left in ("segments:boot-2", "clock:boot-1", "reaper:boot-2"):
        client.set(f"inpainting:{left}", "")
    client.hset("inpainting:crews", "boot-2 abcd", 1)
    found = Account()
    count_leftovers(found, client, jobs, "boot-1")
    assert (found.keys_left, len(found.wrong)) == (3, 4)
    assert "boot-2" in found.wrong[-1]


@pytest.mark.parametrize(
    "key", [*QUEUES, "inpainting:cleanup:x", "inpainting:delayed:x", "chaos:fetched"]
)
def test_what_is_not_done_is_seen(client: RedisClient, key: str) -> None:
    assert is_idle(client)
    client.rpush(key, "x")
    assert not is_idle(client)


def test_every_case_occurs_and_most_jobs_are_good(jobs: Jobs) -> None:
    cases = [jobs.case(number) for number in range(10_000)]
    assert {*cases} == {*Case}
    assert cases.count(Case.GOOD) > 8_900
    assert sum(SHARE.values()) < 1_000


def test_what_was_never_sent_is_removed_also_where_a_dead_job_s_number_begins_like_its_own(
    client: RedisClient, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    unsent = find(Case.GOOD)
    dead = unsent * 10 + 5
    for number in (unsent, dead):
        jobs.put(number)
    die(client, jobs, dead, "crashed")
    remove_unsent(client, jobs, {unsent, dead})
    left = jobs.segments()
    assert not left & {*jobs.names(unsent)}
    assert not left ^ ({*jobs.names(dead)} & left)
    jobs.remove(dead)
    assert left == {*jobs.names(dead)}
