"""What a GPU worker makes ready for."""

from __future__ import annotations

from core.config import Settings
from core.network import full_batches


def test_every_batch_of_whole_canvases_is_made_ready_for_the_largest_first() -> None:
    settings = Settings(inpainting_batch_size_short=3, inpainting_batch_size_long=1)
    short, long = (1024, 1024), (864, 1504)
    found = full_batches(settings)
    assert found[:2] == [(3, *short), (2, *short)]
    assert sorted(found) == sorted([(n, *short) for n in (1, 2, 3)] + [(1, *long)])
