"""The way out, in this process: what is done at the same time, and what in order."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from core import shm
from core.config import load_settings
from core.contract import Job
from core.delivery import Deliverer
from core.handover import Loaded
from core.identity import current_identity
from core.keys import Kind
from core.queues import Claim
from core.stages import Loader
from tests.conftest import wait_until
from tests.pipeline import Pipeline, page


class Told:
    """Queues that take everything, and remember in which order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bytes]] = []

    async def commit(self, claim: Claim, *_: Any) -> tuple[bool, str]:
        self.told.append(("commit", claim.payload))
        return True, ""

    async def cleaned(self, claim: Claim) -> None:
        self.told.append(("cleaned", claim.payload))


def test_a_batch_is_announced_while_the_inputs_of_the_one_before_are_unlinked(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings()
    queues: Any = Told()
    unlinking, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> None:
        unlinking.set()
        assert go_on.wait(30)
        unlink_all(*arguments)

    unlink_all = shm.unlink_all
    monkeypatch.setattr(shm, "unlink_all", slow)
    results: list[str] = []
    write = shm.write

    def written(name: str, *arguments: Any) -> None:
        results.append(name)
        write(name, *arguments)

    monkeypatch.setattr(shm, "write", written)

    batches: list[tuple[Claim, Loaded]] = []
    for seed in (1, 2):
        payload = pipeline.push(pipeline.message(*page(60, 90, seed), "long"), "long")
        claim = Claim(Kind.LONG, payload)
        batches.append((claim, Loader(settings)(claim)))
    (first, one), (second, other) = batches

    def there(job: Job) -> bool:
        return all(Pipeline.exists(segment.name) for segment in (job.image, job.mask))

    async def deliver() -> None:
        loop = asyncio.get_running_loop()
        failures: Any = None
        stop = asyncio.Event()
        deliver = Deliverer(settings, current_identity(settings), queues, failures, stop)
        assert await deliver([(first, one)], [np.zeros_like(one.image)], 0) == (1, [])
        await loop.run_in_executor(None, unlinking.wait, 30)
        # The second one is stored and announced, and waits only with its own inputs.
        task = asyncio.create_task(deliver([(second, other)], [np.zeros_like(other.image)], 0))
        while ("commit", second.payload) not in queues.told:
            await asyncio.sleep(0.005)
        assert ("cleaned", first.payload) not in queues.told
        assert there(one.job)
        go_on.set()
        assert await task == (1, [])
        await deliver.cleaned()

    try:
        asyncio.run(asyncio.wait_for(deliver(), 30))
        assert queues.told == [
            ("commit", first.payload), ("commit", second.payload),
            ("cleaned", first.payload), ("cleaned", second.payload),
        ]  # fmt: skip
        wait_until(lambda: not there(one.job) and not there(other.job), "inputs are unlinked")
    finally:
        go_on.set()
        unlink_all(results, settings.uids)
