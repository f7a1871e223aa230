"""Holes as the pipeline makes them: text lines, glyphs, and LaMa's strokes and boxes.

The host chooses the shapes of a hole at random, a few numbers each; `rasterise` makes the pixels on
the device. Except for glyphs there is a single primitive: a convex quadrilateral grown by a radius.
A text line is grown by its margin, a box is not grown, and a piece of a stroke is a quadrilateral
without area that is grown by half the stroke's width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from lama.training.data.text import Slot, glyph_ink, line_slots, paragraph_slots

#: Margins around a text line, pixels: the pipeline's is 1.
_MARGINS = (1, 1, 1, 2, 3, 5)
#: Pixels that letters are dilated by, most often the number of the evaluation.
_DILATIONS = (1, 2, 2, 2, 3, 5)


@dataclass
class HolePlan:
    """The shapes of one picture's hole."""

    #: float32 4×2 each: (x, y) of the corners in order, convex. Pixels.
    corners: list[np.ndarray] = field(default_factory=list)
    #: The radius in pixels that each quadrilateral is grown by.
    grown: list[float] = field(default_factory=list)
    #: uint8 H×W: ink, which counts above one half. None without glyphs.
    ink: np.ndarray | None = None
    #: Pixels that the ink is dilated by in each direction.
    dilated: int = 0

    def add(self, corners: np.ndarray, grown: float) -> None:
        self.corners.append(np.asarray(corners, np.float32))
        self.grown.append(float(grown))


def text_lines(rng: Generator, slots: Sequence[Slot]) -> HolePlan:
    """The slots' quadrilaterals, filled, with a margin."""
    plan = HolePlan()
    margin = float(rng.choice(_MARGINS))
    for slot in slots:
        plan.add(slot.corners(), margin)
    return plan


def glyphs(rng: Generator, slots: Sequence[Slot], size: tuple[int, int]) -> HolePlan:
    """Random letters in the slots, dilated."""
    return HolePlan(ink=glyph_ink(rng, list(slots), size), dilated=int(rng.choice(_DILATIONS)))


def strokes(rng: Generator, size: tuple[int, int]) -> HolePlan:
    """LaMa's irregular masks (appendix): one to four polylines of one width each, any direction."""
    plan = HolePlan()
    unit = min(size)
    for _ in range(rng.integers(1, 5)):
        width = rng.uniform(0.03, 0.16) * unit
        point = rng.uniform(0, 1, 2) * (size[1], size[0])
        heading = rng.uniform(0, 2 * math.pi)
        for _ in range(rng.integers(1, 5)):
            heading += rng.normal(0, 1.2)
            step = rng.uniform(0.1, 0.4) * unit
            end = point + step * np.array([math.cos(heading), math.sin(heading)])
            plan.add(np.stack([point, end, end, point]), width / 2)
            point = np.clip(end, 0, (size[1], size[0]))
    return plan


def boxes(rng: Generator, size: tuple[int, int]) -> HolePlan:
    """LaMa's large boxes: one to three, each side up to half of the picture's."""
    plan = HolePlan()
    for _ in range(rng.integers(1, 4)):
        high, wide = rng.uniform(0.12, 0.5, 2) * size
        x, y = rng.uniform(0, size[1] - wide), rng.uniform(0, size[0] - high)
        plan.add(Slot(x + wide / 2, y + high / 2, wide, high).corners(), 0)
    return plan


KINDS: Mapping[str, Callable[[Generator, tuple[int, int]], HolePlan]] = {
    "lines": lambda rng, size: text_lines(rng, line_slots(rng, size)),
    "paragraphs": lambda rng, size: text_lines(rng, paragraph_slots(rng, size)),
    "glyphs": lambda rng, size: glyphs(
        rng, (line_slots if rng.random() < 0.5 else paragraph_slots)(rng, size), size
    ),
    "strokes": strokes,
    "boxes": boxes,
}


def rasterise(plans: Sequence[HolePlan], size: tuple[int, int], device: torch.device) -> Tensor:
    """B×1×H×W float32 on `device`, 1 in the hole."""
    mask = _ink(plans, size, device)
    if device.type == "cpu":
        _add_one_by_one(mask, plans)
    else:
        _add_all_at_once(mask, plans)
    return mask.float()


def _add_one_by_one(mask: Tensor, plans: Sequence[HolePlan]) -> None:
    """Rasterises each shape within its own bounds, as most are small. `mask` is bool B×1×H×W."""
    height, width = mask.shape[2:]
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    for hole, plan in zip(mask, plans, strict=True):
        for corners, radius in zip(plan.corners, plan.grown, strict=True):
            (left, top), (right, bottom) = _bounds(corners, radius, (height, width))
            if left < right and top < bottom:
                grid = rows[top:bottom], columns[left:right]
                covered = _covered(torch.from_numpy(corners)[None], torch.tensor([radius]), *grid)
                hole[0, top:bottom, left:right] |= covered[0]


def _add_all_at_once(mask: Tensor, plans: Sequence[HolePlan]) -> None:
    """Rasterises the k-th shapes of all pictures together: few kernels for batches of any size."""
    device = mask.device
    rows, columns = (torch.arange(side, device=device).float() for side in mask.shape[2:])
    most = max((len(plan.corners) for plan in plans), default=0)
    # A missing shape is a point far outside.
    corners = np.full((len(plans), most, 4, 2), -1e4, np.float32)
    radii = np.zeros((len(plans), most), np.float32)
    for index, plan in enumerate(plans):
        if plan.corners:
            corners[index, : len(plan.corners)] = plan.corners
            radii[index, : len(plan.grown)] = plan.grown
    quads, grown = torch.from_numpy(corners).to(device), torch.from_numpy(radii).to(device)
    for k in range(most):
        mask[:, 0] |= _covered(quads[:, k], grown[:, k], rows, columns)


def _ink(plans: Sequence[HolePlan], size: tuple[int, int], device: torch.device) -> Tensor:
    """B×1×H×W bool: the glyphs, dilated."""
    mask = torch.zeros(len(plans), 1, *size, dtype=torch.bool, device=device)
    for index, plan in enumerate(plans):
        if plan.ink is not None:
            ink = (torch.from_numpy(plan.ink).to(device) > 127).float()[None]
            side = 2 * plan.dilated + 1
            mask[index] = F.max_pool2d(ink, side, stride=1, padding=plan.dilated) > 0
    return mask


def _bounds(
    corners: np.ndarray, grown: float, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    low = np.clip(np.floor(corners.min(0) - grown), 0, (size[1], size[0])).astype(int)
    high = np.clip(np.ceil(corners.max(0) + grown) + 1, 0, (size[1], size[0])).astype(int)
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))


def _covered(corners: Tensor, grown: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixel centres in a quadrilateral, or within `grown` of one of its edges.

    `corners` B×4×2, `grown` B, `rows` H and `columns` W: coordinates. Returns bool B×H×W.
    """
    y, x = rows[None, :, None], columns[None, None, :]
    shape = (len(corners), len(rows), len(columns))
    near = torch.full(shape, torch.inf, device=rows.device)
    left = right = torch.ones(shape, dtype=torch.bool, device=rows.device)
    for k in range(4):
        # B, 1, 1 each: where the edge starts, and where it leads
        ax, ay = corners[:, k, 0, None, None], corners[:, k, 1, None, None]
        dx = corners[:, (k + 1) % 4, 0, None, None] - ax
        dy = corners[:, (k + 1) % 4, 1, None, None] - ay
        px, py = x - ax, y - ay
        along = ((px * dx + py * dy) / (dx * dx + dy * dy).clamp(min=1e-9)).clamp(0, 1)
        near = torch.minimum(near, (px - along * dx).square() + (py - along * dy).square())
        side = dx * py - dy * px
        left, right = left & (side >= 0), right & (side <= 0)
    # A quadrilateral without area has every point of its line on both sides. B, 2 each: diagonals
    first, second = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    area = (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).abs()[:, None, None]
    return ((left | right) & (area > 1e-3)) | (near <= grown[:, None, None].square())
