"""The account finds every deviation that it is made to find."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis

from chaos.account import Account, count_leftovers, is_idle, jobs_account, remove_unsent
from chaos.consumer import VERDICTS
from chaos.jobs import QUEUES, SHARE, Case, Jobs
from core import keys
from tests.conftest import OWN


@pytest.fixture
def jobs(shm_baseline: None) -> Jobs:
    return Jobs(f"shm_{OWN}x", seed=1)  # a tag by which the tests know their own segments


@pytest.fixture
def find(jobs: Jobs) -> Callable[[Case], int]:
    """The first job of a case."""
    return lambda case: next(number for number in range(100_000) if jobs.case(number) is case)


def deliver(client: redis.Redis, jobs: Jobs, number: int, name: str, problem: str = "") -> None:
    client.hset(VERDICTS, name, json.dumps([jobs.request(number), problem]))


def die(client: redis.Redis, jobs: Jobs, number: int, reason: str) -> None:
    entry = {"raw": jobs.payload(number).decode(), "reason": reason}
    client.rpush(keys.DEAD, json.dumps(entry))


def account(client: redis.Redis, jobs: Jobs, *sent: int, perhaps: int | None = None) -> Account:
    begun = {*sent} | ({perhaps} if perhaps is not None else set())
    return jobs_account(client, jobs, begun, {*sent})


def test_jobs_that_end_as_they_must_are_no_deviation(
    client: redis.Redis, jobs: Jobs, find: Callable[[Case], int]
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


def test_a_lost_job_is_found(client: redis.Redis, jobs: Jobs, find: Callable[[Case], int]) -> None:
    found = account(client, jobs, find(Case.GOOD))
    assert found.lost == 1
    assert "lost" in found.wrong[0]


def test_a_job_delivered_twice_is_found(
    client: redis.Redis, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.GOOD)
    deliver(client, jobs, number, "a")
    deliver(client, jobs, number, "b")
    found = account(client, jobs, number)
    assert found.too_often == 1
    assert "too often" in found.wrong[0]


def test_a_job_both_delivered_and_dead_is_found(
    client: redis.Redis, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.LATE)
    deliver(client, jobs, number, "a")
    die(client, jobs, number, "segment_missing")
    assert "too many places" in account(client, jobs, number).wrong[0]


def test_a_good_job_that_is_dead_without_need_is_found(
    client: redis.Redis, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.GOOD)
    die(client, jobs, number, "segment_missing")
    assert "without need" in account(client, jobs, number).wrong[0]


def test_inputs_that_a_dead_job_has_lost_are_found(
    client: redis.Redis, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.POISON)
    die(client, jobs, number, "crashed")
    assert "inputs of a dead job are gone" in account(client, jobs, number).wrong[0]
    jobs.put(number)
    assert account(client, jobs, number).wrong == []
    assert jobs.remove(number) == 2


def test_a_result_that_is_not_the_jobs_own_is_found(
    client: redis.Redis, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    number = find(Case.GOOD)
    deliver(client, jobs, number, "a", "other pixels")
    assert "other pixels" in account(client, jobs, number).wrong[0]


def test_a_segment_and_a_key_that_are_left_are_found(
    client: redis.Redis, jobs: Jobs, find: Callable[[Case], int]
) -> None:
    jobs.put(find(Case.GOOD))
    client.set("inpainting:processing:x:long", "")
    client.set("inpainting:segments:x", "")
    found = Account()
    count_leftovers(found, client, jobs)
    assert (found.segments_left, found.keys_left) == (2, 1)
    jobs.remove(find(Case.GOOD))


@pytest.mark.parametrize("key", [*QUEUES, "inpainting:cleanup:x", "chaos:fetched"])
def test_what_is_not_done_is_seen(client: redis.Redis, key: str) -> None:
    assert is_idle(client)
    client.rpush(key, "x")
    assert not is_idle(client)


def test_every_case_occurs_and_most_jobs_are_good(jobs: Jobs) -> None:
    cases = [jobs.case(number) for number in range(10_000)]
    assert {*cases} == {*Case}
    assert cases.count(Case.GOOD) > 9_000
    assert sum(SHARE.values()) < 1_000


def test_what_was_never_sent_is_removed_also_where_a_dead_job_s_number_begins_like_its_own(
    client: redis.Redis, jobs: Jobs, find: Callable[[Case], int]
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
