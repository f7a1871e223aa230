"""A network that keeps what it is shown, and pictures and masks for it."""

from __future__ import annotations

import cv2
import numpy as np

from lama.regions import inpaint
from tests.lama import tiny

NO_PADDING = (0, 0, 0, 0)
FILL = np.array([251, 3, 119], np.uint8)


class Recorder:
    """Fills holes with one colour and keeps what it was shown."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[np.ndarray, np.ndarray]]] = []

    def __call__(self, images, masks):
        self.calls.append([(i.copy(), m.copy()) for i, m in zip(images, masks, strict=True)])
        return [
            np.where((mask > 0)[..., None], FILL, image)
            for image, mask in zip(images, masks, strict=True)
        ]

    @property
    def shown(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [pair for call in self.calls for pair in call]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [mask.shape for _, mask in self.shown]


def noise(height, width, seed=0):
    return tiny.picture(height, width, seed)


def holes(height, width, *boxes):
    """A mask with holes at (top, left, bottom, right)."""
    mask = np.zeros((height, width), np.uint8)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = 255
    return mask


def run(image, mask, region, padding=NO_PADDING, **options):
    """The result and what the network was shown; checks what must hold of every result."""
    network = Recorder()
    before = image.copy(), mask.copy()
    (result,) = inpaint(network, [image], [mask], region, [padding], **options)
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])
    check(result, image, mask, padding, network, options.get("mask_threshold", 0))
    return result, network


def check(result, image, mask, padding, network, threshold=0):
    top, right, bottom, left = padding
    hole = mask.reshape(mask.shape[:2]) > threshold
    inside = np.zeros_like(hole)
    inside[top : hole.shape[0] - bottom, left : hole.shape[1] - right] = True
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    assert not np.shares_memory(result, image)
    assert np.array_equal(result[~hole], image[~hole])
    if network.calls:
        filled = (result == FILL).all(axis=2)
        # what is not the network's is a plane's
        planes = hole & inside & ~filled
        assert not (planes & cv2.dilate((filled & hole).astype(np.uint8), np.ones((3, 3)))).any()
