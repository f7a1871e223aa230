"""How much of a picture the network is shown: a layer before whatever fills holes.

A page that was letterboxed is mostly padding, and text covers a tenth of it. Here the network is
shown the content without the padding, or windows about the holes, and the rest of the picture
stays as it is. It knows pictures, masks and a function that fills; no network, no queue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from .boxes import Box, content, frame, whole
from .planes import fill_planes
from .windows import Ground, Window, plan

__all__ = ["Padding", "Region", "inpaint"]

#: full: the whole canvas. content: without the padding, but for a margin. mask: windows about the
#: holes; a hole in a ground of one plane of colour is filled with that.
Region = Literal["full", "content", "mask"]

#: (top, right, bottom, left), pixels.
Padding = tuple[int, int, int, int]

#: uint8 H×W×3 pictures and their masks, of any sizes, to the filled pictures. A hole is what is
#: above the threshold that `inpaint` is called with.
Fill = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], Sequence[np.ndarray]]

#: Pixels of the padding that `content` leaves on: what is near the content's edge is filled as if
#: the edge were further off.
MARGIN = 16

#: Pixels that are given to the network in one call, where one window isn't more by itself. It fills
#: a GPU, and a picture of any length needs no more memory than that.
MOST_AT_ONCE = 2 * 1024 * 1024


def inpaint(
    fill: Fill,
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    region: Region = "full",
    paddings: Sequence[Padding] | None = None,
    mask_threshold: int = 0,
) -> list[np.ndarray]:
    """Fills the holes of `images` by calls of `fill`; new arrays, in the order given.

    `images`: uint8 H×W×3; `masks`: uint8 H×W or H×W×1, above `mask_threshold` is a hole.
    `paddings`: what a letterbox added to each picture; nothing by default. Outside the holes, and
    in the padding, a result has its picture's own bytes. A result doesn't depend on the pictures
    that are filled with it. Raises ValueError for a padding that leaves nothing of its picture.
    """
    if region == "full":
        return list(fill(images, masks))
    if paddings is None:
        paddings = [(0, 0, 0, 0)] * len(images)
    sheets = [
        _Sheet(image, mask.reshape(mask.shape[:2]) > mask_threshold, padding, region)
        for image, mask, padding in zip(images, masks, paddings, strict=True)
    ]
    turns = max((window.turn for sheet in sheets for window in sheet.windows), default=-1) + 1
    for turn in range(turns):
        shown = [
            (sheet, window) for sheet in sheets for window in sheet.windows if window.turn == turn
        ]
        for batch in _batches(shown):
            pictures = [sheet.picture[window.frame.slices] for sheet, window in batch]
            holes = [sheet.mask(window.frame) for sheet, window in batch]
            for (sheet, window), filled in zip(batch, fill(pictures, holes), strict=True):
                sheet.paste(window, filled)
        # Only now, so that it doesn't matter which windows went together.
        for sheet, window in shown:
            sheet.hole[window.core.slices] = False
    return [sheet.picture for sheet in sheets]


class _Sheet:
    """A picture on its way: what is filled of it, what is still a hole, and its windows."""

    def __init__(
        self, image: np.ndarray, hole: np.ndarray, padding: Padding, region: Region
    ) -> None:
        self.picture = np.array(image, order="C")
        #: bool H×W
        self.hole = hole
        self.windows = self._windows(padding, region)

    def _windows(self, padding: Padding, region: Region) -> list[Window]:
        canvas = whole(self.hole)
        inside = content(canvas.size, padding)
        if not self.hole[inside.slices].any():
            return []
        if region == "content":
            return [Window(frame(inside.grown(MARGIN, canvas), canvas, canvas), inside)]
        left = fill_planes(self.picture[inside.slices], self.hole[inside.slices])
        holes = [box.moved(inside.top, inside.left) for box in left]
        windows = plan(holes, Ground(inside, canvas))
        return [window for window in windows if self.hole[window.core.slices].any()]

    def mask(self, part: Box) -> np.ndarray:
        """uint8 H×W: 255 in the holes."""
        return self.hole[part.slices].astype(np.uint8) * np.uint8(255)

    def paste(self, window: Window, filled: np.ndarray) -> None:
        """Take over what the network made of the holes in a window's core."""
        hole = self.hole[window.core.slices]
        place = window.core.moved(-window.frame.top, -window.frame.left)
        self.picture[window.core.slices][hole] = filled[place.slices][hole]


def _batches(
    shown: Sequence[tuple[_Sheet, Window]],
) -> Iterator[list[tuple[_Sheet, Window]]]:
    """Windows of one size together, as many as MOST_AT_ONCE allows."""
    sizes: dict[tuple[int, int], list[tuple[_Sheet, Window]]] = defaultdict(list)
    for sheet, window in shown:
        sizes[window.frame.size].append((sheet, window))
    for (height, width), alike in sizes.items():
        count = max(1, MOST_AT_ONCE // (height * width))
        for first in range(0, len(alike), count):
            yield alike[first : first + count]
