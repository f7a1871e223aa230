"""What a GPU worker makes ready for."""

from __future__ import annotations

from core.keys import Kind
from core.network import full_batches


def test_batches_of_whole_canvases_are_made_ready_for_the_largest_first() -> None:
    short, long = (1024, 1024), (864, 1504)
    found = full_batches({Kind.SHORT: 3, Kind.LONG: 1})
    assert found[:2] == [(3, *short), (2, *short)]
    assert sorted(found) == sorted([(n, *short) for n in (1, 2, 3)] + [(1, *long)])


def test_of_many_batch_sizes_the_largest_small_ones_and_powers_of_two_are_made_ready() -> None:
    batches = full_batches({Kind.SHORT: 50, Kind.LONG: 1})
    counts = [count for count, height, _ in batches if height == 1024]
    assert counts == [50, 32, 16, 8, 4, 3, 2, 1]
