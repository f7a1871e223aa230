"""What the benchmarks stand on: consumers that deliver, and pages that are always the same."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.layouts import HIGHEST, LOWEST, WIDTH, layouts, strip
from benchmarks.traffic import PREFIX, Consumer, Traffic
from benchmarks.worker import IDENTITY, PROGRAMS
from core.keys import Kind
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import DEV_SHM


def small_pictures() -> dict[Kind, tuple[np.ndarray, np.ndarray]]:
    return {
        kind: (page.prepared.image, page.prepared.mask)
        for kind in Kind
        for page in layouts(kind, 1)
    }


@pytest.mark.parametrize("program", PROGRAMS.values())
def test_a_consumer_delivers_every_job_and_leaves_nothing_behind(
    client: RedisClient, server: RedisServer, program: str
) -> None:
    with Traffic(server.url, small_pictures()) as traffic:
        with Consumer(server.url, program, 1, **IDENTITY) as consumer:
            for kind in Kind:
                assert traffic.run(consumer, kind, 5) > 0
            # A result is there before its inputs are gone, and a plain consumer ends in between.
            wait_until(lambda: not list(DEV_SHM.glob(f"{PREFIX}*")), "all inputs are unlinked")
        assert not client.exists(*consumer.queues.values())
        assert not client.keys("inpainting_result:*")


def test_pages_are_the_same_each_time_and_have_their_text_in_the_holes() -> None:
    once, again = layouts(Kind.SHORT, 3), layouts(Kind.SHORT, 3)
    assert [page.prepared.original_size[0] for page in once] == [LOWEST, 775, HIGHEST]
    for page, other in zip(once, again, strict=True):
        assert np.array_equal(page.prepared.image, other.prepared.image)
        assert page.prepared.original_size[1] == WIDTH
        assert 0.0005 < page.measured.mean() < 0.3
        # Text makes more of a difference than compression does.
        difference = np.abs(page.prepared.image.astype(int) - page.clean).mean(axis=2)
        assert difference[page.measured].mean() > 2 * difference[page.prepared.mask == 0].mean()


def test_a_strip_has_as_many_rows_as_are_asked_for() -> None:
    lettered, mask, clean = strip(3000)
    assert lettered.shape == clean.shape == (3000, WIDTH, 3)
    assert mask.shape == (3000, WIDTH)
    assert mask.any()
