"""Pictures of many sizes, one after another: what is kept for a size does not add up."""

from __future__ import annotations

import numpy as np
import torch

from lama.engine import fourier
from lama.inference import batch_inference, engine_of
from tests.lama import tiny


def test_what_is_kept_for_the_sizes_of_the_past_is_bounded_and_nothing_is_lost_by_that() -> None:
    model = tiny.tiny_model()

    def fill(side: int) -> np.ndarray:
        picture = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
        mask = np.zeros((side, side), np.uint8)
        mask[8:16, 8:16] = 255
        (filled,) = batch_inference([picture], [mask], model, tiny.tiny_config(), "cpu", False)
        return filled

    first = fill(32)
    for side in range(24, 24 + 8 * (fourier._MOST_SIZES + 4), 8):
        fill(side)
    kept = engine_of(model, "cpu", torch.float32).network._spectra._units
    assert 1 <= len(kept) <= fourier._MOST_SIZES
    again = fill(32)  # whose units were dropped meanwhile, and may be of the other way now
    assert int(np.abs(again.astype(int) - first).max()) <= 1
