"""Fills holes whose ground is one plane of colour, without the network."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from .boxes import Box, bounds_of

#: The width in pixels of the ring around a hole that shows its ground. Holes that are closer to
#: each other than twice that share a ring and count as a single hole.
RING = 8

#: Levels of 255 by which every pixel of the ring may differ from the plane.
TOLERANCE = 2.0

#: More holes than this are not text, and examining each takes longer than the network does. They
#: count as a single hole where they are closer than twice FAR pixels.
MOST_HOLES, FAR = 1024, 64

#: The most pixels of a ring that its plane is fitted to, evenly spread; all pixels are compared
#: with it.
MOST_FITTED = 4096

#: Pixels that are compared at a time, so that a ring of any size needs little memory.
_AT_ONCE = 1 << 18


def fill_planes(picture: np.ndarray, hole: np.ndarray) -> list[Box]:
    """Fills each hole whose ring is one plane of colour and takes it out of `hole`.

    `picture`: uint8 H×W×3, `hole`: bool H×W; both are changed in place. Returns the bounds of each
    hole that is left.
    """
    labels, reaches = _neighbourhoods(hole, RING)
    few = len(reaches) <= MOST_HOLES
    if not few:
        labels, reaches = _neighbourhoods(hole, FAR)
    left = []
    for label, reach in enumerate(reaches, 1):
        near = labels[reach.slices] == label
        own = near & hole[reach.slices]
        patch = picture[reach.slices]
        plane = _plane(patch, near & ~own, own) if few else None
        if plane is None:
            left.append(bounds_of(own).moved(reach.top, reach.left))
        else:
            patch[own] = plane
            hole[reach.slices][own] = False
    return left


def _neighbourhoods(hole: np.ndarray, reach: int) -> tuple[np.ndarray, list[Box]]:
    """int32 H×W: n within `reach` pixels of the nth hole, else 0; and the box of each n."""
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    near = cv2.dilate(hole.view(np.uint8), square)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    boxes = [Box(y, x, y + height, x + width) for x, y, width, height, _ in statistics[1:].tolist()]
    return labels, boxes


def _plane(patch: np.ndarray, ring: np.ndarray, hole: np.ndarray) -> np.ndarray | None:
    """uint8 N×3 for the N pixels of `hole`; None if `ring` is not one plane or not all around."""
    if not ring.any():
        return None
    # A ring on one side only does not show the ground on the other.
    around = bounds_of(ring)
    if around.around(bounds_of(hole)) != around:
        return None
    pixels = np.flatnonzero(ring)
    width = ring.shape[1]
    colours = patch.reshape(-1, 3)
    spread = pixels[:: -(-len(pixels) // MOST_FITTED)]
    middle = _known(spread, width)[:, :2].mean(axis=0)
    # (y, x, 1), 3 colours
    slopes = np.linalg.lstsq(_known(spread, width, middle), colours[spread], rcond=None)[0]
    for part in (spread, *_parts(pixels)):  # most textures end at the first
        plane = _known(part, width, middle) @ slopes
        if np.abs(plane - colours[part]).max() > TOLERANCE:
            return None
    wanted = np.flatnonzero(hole)
    filled = [
        np.clip(np.rint(_known(part, width, middle) @ slopes), 0, 255).astype(np.uint8)
        for part in _parts(wanted)
    ]
    return np.concatenate(filled)


def _parts(pixels: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(pixels), _AT_ONCE):
        yield pixels[first : first + _AT_ONCE]


def _known(
    pixels: np.ndarray, width: int, middle: np.ndarray | tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """float64 N×3: (y, x, 1) of pixels, which are numbered row by row, as seen from `middle`."""
    return np.column_stack(
        [pixels // width - middle[0], pixels % width - middle[1], np.ones(len(pixels))]
    )
