"""The large holes of a picture, and the surroundings and windows for each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from lama.regions.boxes import Box, bounds_of, whole
from lama.regions.planes import fill_planes

#: Pixels around a hole that the smallest scale shows: as a multiple of the hole's longer side, at
#: least and at most, as far as the picture reaches.
_SEEN, _SEEN_LEAST, _SEEN_MOST = 2, 512, 1024

#: The same for the windows at the larger scales, for which the smaller one shows the distance.
_NEAR, _NEAR_LEAST, _NEAR_MOST = 0.5, 64, 128


@dataclass(frozen=True, slots=True)
class LargeHole:
    """A hole: its bounds in the picture, and its own pixels within them (bool h×w)."""

    box: Box
    own: np.ndarray


def large_holes(
    picture: np.ndarray, hole: np.ndarray, inside: Box, least_extent: int
) -> list[LargeHole]:
    """The holes within `inside` into which a circle of that diameter fits; the largest first.

    `picture`: uint8 H×W×3, `hole`: bool H×W. Holes whose ground is one plane of colour are left
    out, as there is nothing to refine.
    """
    within = np.zeros_like(hole)
    within[inside.slices] = hole[inside.slices]
    if hole.all() or not (_distances(within) >= least_extent / 2).any():
        return []
    own = within[inside.slices].copy()
    fill_planes(picture[inside.slices].copy(), own)
    within[inside.slices] = own
    fits = _distances(within) >= least_extent / 2
    count, labels = cv2.connectedComponents(within.astype(np.uint8), connectivity=8)
    found = []
    for label in np.unique(labels[fits]) if count > 1 else ():
        component = labels == label
        box = bounds_of(component)
        found.append(LargeHole(box, component[box.slices]))
    return sorted(found, key=lambda large: (-int(large.own.sum()), large.box.top, large.box.left))


def _distances(hole: np.ndarray) -> np.ndarray:
    """float32 H×W: the distance in pixels from each pixel of the hole to the nearest known one."""
    return cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def surroundings(box: Box, canvas: Box) -> Box:
    """The box around a hole that the pyramid is made of."""
    margin = int(min(max(_SEEN * max(box.size), _SEEN_LEAST), _SEEN_MOST))
    return box.grown(margin, canvas)


def halvings(around: Box, smallest_side: int) -> int:
    """How often to halve `around` so that its shorter side comes closest to `smallest_side`."""
    return max(0, round(math.log2(min(around.size) / smallest_side)))


def window(own: Tensor, step: int) -> Box:
    """The window around the hole `own` (1×1×h×w) that is optimised at a scale.

    Its sides are multiples of `step`, as h and w are.
    """
    shape = own[0, 0].cpu().numpy() > 0
    bounds, canvas = bounds_of(shape), whole(shape)
    margin = int(min(max(_NEAR * max(bounds.size), _NEAR_LEAST), _NEAR_MOST))
    near = bounds.grown(margin, canvas)
    return Box(
        near.top // step * step,
        near.left // step * step,
        min(-(-near.bottom // step) * step, canvas.bottom),
        min(-(-near.right // step) * step, canvas.right),
    )
