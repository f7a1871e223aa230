"""The benchmark of records tells a series that levels off from one that grows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from benchmarks.records import Run, levelled_off
from harness.redis_server import RedisServer


@pytest.mark.parametrize(
    ("series", "is_level"),
    [
        ([1, 5, 9, 10, 10, 10, 10, 10], True),  # it grows at first
        ([1, 5, 9, 10, 11, 12, 13, 14], False),
        ([5, 5], True),
    ],
)
def test_a_series_levels_off_where_its_end_is_no_higher_than_its_second_quarter(
    series: Sequence[float], is_level: bool
) -> None:
    assert levelled_off(series) is is_level


@pytest.mark.parametrize("fetched", [True, False])
def test_a_run_commits_at_its_rate(server: RedisServer, client: object, fetched: bool) -> None:
    run = Run(server.url, 200, 16, fetched=fetched)
    asyncio.run(run.run(1.0, 0.5))
    first, *_, last = run.samples
    assert first.commits == 0
    assert 100 < last.commits <= 220
    assert last.unread == (0 if fetched else last.commits)
    assert last.redis_bytes > 0
