"""What a batch's jobs are shared out to."""

from __future__ import annotations

import asyncio

import pytest

from core.pixels import copying
from core.pixels.copying import MOST, Copiers, copying_threads


@pytest.mark.parametrize(
    ("seen", "limit", "threads"),
    [(1, None, 1), (2, None, 1), (5, None, 2), (64, None, MOST), (64, 4.5, 2), (4, 0.5, 1)],
)
def test_half_as_many_threads_copy_as_there_are_cores_to_use(
    monkeypatch: pytest.MonkeyPatch, seen: int, limit: float | None, threads: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(seen)))
    monkeypatch.setattr(copying, "cpu_limit", lambda: limit)
    assert copying_threads() == threads


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_each_item_gets_its_own_outcome_whatever_becomes_of_the_others(
    monkeypatch: pytest.MonkeyPatch, threads: int, count: int
) -> None:
    monkeypatch.setattr(copying, "copying_threads", lambda: threads)

    def inverse(number: int, sign: int) -> float:
        return sign / number

    found = asyncio.run(Copiers("test").each(inverse, [(n, -1) for n in range(count)]))
    assert len(found) == count
    for number, outcome in enumerate(found):
        if number:
            assert outcome == -1 / number
        else:
            assert isinstance(outcome, ZeroDivisionError)
