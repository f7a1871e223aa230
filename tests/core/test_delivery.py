"""The way out, in this process: what is done at the same time, and what in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from core.claims import Claim, Ending
from core.config import load_settings
from core.contract import Job
from core.flow.delivery import Deliverer, Results, Stored
from core.flow.writability import ShmWritability
from core.identity import current_identity
from core.keys import Kind
from core.pixels import shm
from core.pixels.handover import Loaded
from core.pixels.stages import Loader
from harness.waiting import wait_until
from harness.wire import Pipeline, page


class Told:
    """Queues that take everything, and remember in which order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bytes]] = []

    def mark_work(self, claims: Sequence[Claim], *, working: bool) -> None:
        pass

    async def commit(self, claim: Claim, *_: Any) -> tuple[Ending, str]:
        self.told.append(("commit", claim.payload))
        return Ending.COMMITTED, ""

    async def drop_cleanup_entry(self, claim: Claim, member: str) -> None:
        self.told.append(("cleaned", claim.payload))


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Queues; what is written meanwhile is removed at the end."""
    results: list[str] = []
    write, unlink_all = shm.write, shm.unlink_all

    def written(name: str, *arguments: Any) -> None:
        results.append(name)
        write(name, *arguments)

    monkeypatch.setattr(shm, "write", written)
    yield Told()
    unlink_all(results, load_settings().uids)


def deliverer(queues: Any) -> Deliverer:
    settings = load_settings()
    failures: Any = None
    stop = asyncio.Event()
    identity = current_identity(settings.queues)
    return Deliverer(settings, identity, queues, failures, ShmWritability(stop), stop)


def loaded(pipeline: Pipeline, *seeds: int) -> list[tuple[Claim, Loaded]]:
    jobs = []
    for seed in seeds:
        payload = pipeline.push(pipeline.message(*page(60, 90, seed), "long"), "long")
        claim = Claim(Kind.LONG, payload)
        jobs.append((claim, Loader(load_settings())(claim)))
    return jobs


def there(job: Job) -> bool:
    return all(Pipeline.exists(segment.name) for segment in (job.image, job.mask))


async def store(deliver: Deliverer, *jobs: tuple[Claim, Loaded]) -> Results:
    pictures = [np.zeros_like(one.image) for _, one in jobs]
    results = await deliver.store(jobs, pictures, 0)
    assert len(results.stored) == len(jobs)
    return results


def test_a_batch_is_committed_while_the_inputs_of_the_one_before_are_unlinked(
    pipeline: Pipeline, queues: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlinking, go_on = threading.Event(), threading.Event()
    unlink_all = shm.unlink_all

    def slow(*arguments: Any) -> None:
        unlinking.set()
        assert go_on.wait(30)
        unlink_all(*arguments)

    monkeypatch.setattr(shm, "unlink_all", slow)
    first, second = loaded(pipeline, 1, 2)

    async def run() -> None:
        deliver = deliverer(queues)
        committed = await store(deliver, first)
        await deliver.commit(committed)
        assert committed.delivered == 1
        await asyncio.to_thread(unlinking.wait, 30)
        # The second one is stored and announced, and waits only with its own inputs.
        results = await store(deliver, second)
        committing = asyncio.create_task(deliver.commit(results))
        while ("commit", second[0].payload) not in queues.told:
            await asyncio.sleep(0.005)
        assert ("cleaned", first[0].payload) not in queues.told
        assert there(first[1].job)
        go_on.set()
        await committing
        assert results.delivered == 1
        await deliver.wait_for_cleanup()

    try:
        asyncio.run(asyncio.wait_for(run(), 30))
    finally:
        go_on.set()
    assert queues.told == [
        ("commit", first[0].payload),
        ("commit", second[0].payload),
        ("cleaned", first[0].payload),
        ("cleaned", second[0].payload),
    ]
    wait_until(lambda: not there(first[1].job) and not there(second[1].job), "inputs are unlinked")


def test_the_results_of_a_batch_are_written_side_by_side(
    pipeline: Pipeline, queues: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.pixels.copying.copying_threads", lambda: 2)
    both, write = threading.Barrier(2, timeout=30), shm.write

    def together(*arguments: Any) -> None:
        both.wait()
        write(*arguments)

    monkeypatch.setattr(shm, "write", together)
    jobs = loaded(pipeline, 1, 2)

    async def run() -> list[Stored]:
        return (await store(deliverer(queues), *jobs)).stored

    stored = asyncio.run(asyncio.wait_for(run(), 30))
    assert [one.claim for one in stored] == [claim for claim, _ in jobs]
    assert len({one.segment.name for one in stored}) == 2
