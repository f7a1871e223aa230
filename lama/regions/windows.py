"""Plans the windows of a picture that the network is shown, so that every hole is in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .boxes import Box, frame

#: Pixels around a hole that the network sees at least, as far as the picture reaches.
CONTEXT = 64

#: The longest side of a window, pixels. A longer hole gets several windows, one after another.
LONGEST_SIDE = 1536

#: The cost of a window in addition to its pixels, in pixels.
OVERHEAD = 64 * 64

#: With more windows than this, the longer side of the picture decides which are beside each other.
_MANY = 1024


@dataclass(frozen=True, slots=True)
class Window:
    """A window: the network sees `frame`, and its fill is used in `core`.

    Windows of one `turn` do not depend on each other; a later turn sees the fills of earlier ones.
    """

    frame: Box
    core: Box
    turn: int = 0

    @property
    def cost(self) -> int:
        height, width = self.frame.size
        return height * width + OVERHEAD

    @property
    def fits(self) -> bool:
        return max(self.frame.size) <= LONGEST_SIDE


@dataclass(frozen=True, slots=True)
class Ground:
    """The place for windows: `content` as far as they fit, else `canvas` around it."""

    content: Box
    canvas: Box

    def window(self, core: Box, turn: int = 0) -> Window:
        needed = core.grown(CONTEXT, within=self.content)
        return Window(frame(needed, self.content, self.canvas), core, turn)


def plan(holes: Sequence[Box], ground: Ground) -> list[Window]:
    """Windows whose cores hold all `holes`.

    Two windows are merged if that does not cost more, which is so if they overlap a lot. A
    remaining overlap does no harm: each window has the holes of the other masked. Together they
    never cost more than windows over the bounds of all holes.
    """
    if not holes:
        return []
    windows, tiles = [], []
    for hole in holes:
        if (window := ground.window(hole)).fits:
            windows.append(window)
        else:
            tiles += _tiles(hole, ground)
    apart = _merged(windows, ground) + tiles
    # Many long holes that reach around each other are cheaper in one window.
    everything = _around(holes)
    together = (
        [window] if (window := ground.window(everything)).fits else _tiles(everything, ground)
    )
    cheaper = sum(window.cost for window in together) < sum(window.cost for window in apart)
    return together if cheaper else apart


def _merged(windows: list[Window], ground: Ground) -> list[Window]:
    """Merges pairs as long as that saves something."""
    height, width = ground.canvas.size
    # In rows, all windows of a wide strip are beside each other: each would be tried with each.
    by_columns = len(windows) > _MANY and width > height

    def along(window: Window) -> tuple[int, int, int]:
        box = window.frame
        return (box.left, box.top, box.right) if by_columns else (box.top, box.left, box.bottom)

    while True:
        done: list[Window] = []
        active: list[Window] = []
        for window in sorted(windows, key=along):
            # A window that ends before this one cannot be merged with it, nor with later ones.
            start = along(window)[0]
            done += [other for other in active if along(other)[2] < start]
            active = [other for other in active if along(other)[2] >= start]
            for index, other in enumerate(active):
                both = ground.window(window.core.around(other.core))
                if both.fits and both.cost <= window.cost + other.cost:
                    active[index] = both
                    break
            else:
                active.append(window)
        merged = done + active
        if len(merged) == len(windows):
            return merged
        windows = merged


def _tiles(hole: Box, ground: Ground) -> list[Window]:
    """The windows of a hole that is too long for one, in turns from the top left on."""
    longest = LONGEST_SIDE - 2 * CONTEXT
    ends = []
    for start, end, side in zip(
        (hole.top, hole.left),
        (hole.bottom, hole.right),
        ground.window(hole).frame.size,
        strict=True,
    ):
        parts = -(-(end - start) // longest) if side > LONGEST_SIDE else 1
        ends.append(np.linspace(start, end, parts + 1).astype(int).tolist())
    rows, columns = ends
    parts_of_it = [
        Box(top, left, bottom, right)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]
    return [ground.window(part, turn) for turn, part in enumerate(parts_of_it)]


def _around(boxes: Sequence[Box]) -> Box:
    every = boxes[0]
    for box in boxes[1:]:
        every = every.around(box)
    return every
