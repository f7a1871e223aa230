"""What a device does to bytes is what NumPy and OpenCV do on the host."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from lama.engine.engine import as_pixels
from lama.engine.pixels import masked, resized, restored
from lama.padding import without_padding
from tests.lama import tiny

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def on(device: str, array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0, 127])
def test_holes_are_masked_as_on_the_host(device: str, threshold: int) -> None:
    rng = np.random.default_rng(1)
    pictures = np.stack([tiny.picture(16, 24, seed) for seed in range(2)])
    masks = rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), (2, 16, 24))
    there = masked(on(device, pictures), on(device, masks), threshold)
    assert torch.equal(there.cpu(), as_pixels(pictures, masks > threshold))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((40, 30), (73, 55)),
        ((40, 30), (80, 60)),
        ((40, 30), (20, 15)),
        ((97, 53), (31, 200)),
        ((1, 1), (9, 7)),
        ((3, 500), (500, 3)),
        ((200, 16), (3001, 16)),
    ],
)
def test_pictures_are_resized_within_a_level_of_opencv(device, size, wanted) -> None:
    picture = tiny.picture(*size)
    expected = cv2.resize(picture, wanted[::-1], interpolation=cv2.INTER_LINEAR)
    there = resized(on(device, picture), wanted).cpu().numpy()
    assert there.shape == (*wanted, 3)
    assert np.abs(there.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("padding", "size", "most"),
    [((0, 0, 0, 0), (32, 48), 0), ((3, 5, 7, 2), (22, 41), 0), ((3, 5, 7, 2), (50, 90), 1)],
)
def test_letterboxes_are_undone_as_on_the_host(device, padding, size, most) -> None:
    picture = tiny.picture(32, 48)
    expected = without_padding(picture, padding, size)
    there = restored(on(device, picture), padding, size)
    assert np.abs(there.cpu().numpy().astype(int) - expected).max() <= most
