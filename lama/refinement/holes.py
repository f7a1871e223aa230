"""Which holes are large, and what of a picture is looked at for each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from lama.regions.boxes import Box, bounds_of, whole
from lama.regions.planes import fill_planes

#: Pixels about a hole that the smallest scale shows, as parts of the hole's longer side, and the
#: least and the most; as far as the picture reaches.
_SEEN, _SEEN_LEAST, _SEEN_MOST = 2, 512, 1024

#: The same for the windows at the larger scales, which learn from the smaller one what is far off.
_NEAR, _NEAR_LEAST, _NEAR_MOST = 0.5, 64, 128


@dataclass(frozen=True, slots=True)
class LargeHole:
    """Its bounds in the picture, and which pixels of them are its own (bool h×w)."""

    box: Box
    own: np.ndarray


def large_holes(
    picture: np.ndarray, hole: np.ndarray, inside: Box, least_extent: int
) -> list[LargeHole]:
    """The holes within `inside` into which a circle of that diameter fits; the largest first.

    `picture`: uint8 H×W×3, `hole`: bool H×W. A hole whose ground is one plane of colour isn't among
    them: there is nothing to refine.
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
    return sorted(found, key=lambda one: (-int(one.own.sum()), one.box.top, one.box.left))


def _distances(hole: np.ndarray) -> np.ndarray:
    """float32 H×W: pixels from each pixel of the hole to the nearest that isn't one."""
    return cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def surroundings(box: Box, canvas: Box) -> Box:
    """What of a picture is made smaller for a hole."""
    margin = int(min(max(_SEEN * max(box.size), _SEEN_LEAST), _SEEN_MOST))
    return box.grown(margin, canvas)


def halvings(around: Box, smallest_side: int) -> int:
    """How often that is halved, so that the shorter side comes closest to `smallest_side`."""
    return max(0, round(math.log2(min(around.size) / smallest_side)))


def window(own: Tensor, step: int) -> Box:
    """What is optimised at a scale, about the hole `own` (1×1×h×w): sides are multiples of step.

    h and w are too.
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
