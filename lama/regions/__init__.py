"""Regions: how much of a picture the network is shown.

A page that was letterboxed is mostly padding, and text covers a tenth of it. With the region
`content` the network is shown the page without the padding, with `mask` windows around the holes;
the rest of the picture stays as it is. This package handles pictures and masks only: its callers
run the network on each `Part`, or pass a function that fills to `inpaint`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from .boxes import Box, content, frame, whole
from .planes import fill_planes
from .windows import Ground, Window, plan

__all__ = [
    "MOST_AT_ONCE",
    "Padding",
    "Part",
    "Parts",
    "Region",
    "Sheet",
    "Window",
    "content_window",
    "inpaint",
]

#: full: the whole canvas. content: without the padding, except for a margin. mask: windows around
#: the holes; a hole in a ground of one plane of colour is filled with that.
Region = Literal["full", "content", "mask"]

#: (top, right, bottom, left), pixels.
Padding = tuple[int, int, int, int]

#: A function from uint8 H×W×3 pictures and their masks, of any sizes, to the filled pictures. A
#: mask value above the threshold of `inpaint` is a hole.
Fill = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], Sequence[np.ndarray]]

#: Pixels of the padding that `content` keeps, so that pixels near the content's edge are filled as
#: if the edge were further away.
MARGIN = 16

#: The most pixels that the network is given in one call, unless a single window has more. It fills
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
    """Fills the holes of `images` by calls of `fill`; returns new arrays, in the order given.

    Takes the arguments of `Parts`, and raises what it raises.
    """
    if region == "full":
        return list(fill(images, masks))
    parts = Parts(images, masks, region, paddings, mask_threshold)
    for part in parts:
        part.paste(fill(part.images, part.masks))
    return parts.filled


class Parts:
    """Pictures that are filled part by part: iterate, fill each `Part` and paste it, take `filled`.

        parts = Parts(images, masks, "mask")
        for part in parts:
            part.paste(fill(part.images, part.masks))
        return parts.filled

    A part must be pasted before the next one is taken.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        region: Literal["content", "mask"],
        paddings: Sequence[Padding] | None = None,
        mask_threshold: int = 0,
    ) -> None:
        """`images`: uint8 H×W×3; `masks`: uint8 H×W or H×W×1, above `mask_threshold` is a hole.

        `paddings`: what a letterbox added to each picture; nothing by default. Raises ValueError
        for a padding that leaves nothing of its picture.
        """
        if paddings is None:
            paddings = [(0, 0, 0, 0)] * len(images)
        self._sheets = [
            Sheet(image, mask.reshape(mask.shape[:2]) > mask_threshold, padding, region)
            for image, mask, padding in zip(images, masks, paddings, strict=True)
        ]

    def __iter__(self) -> Iterator[Part]:
        """The batches of windows of one size."""
        turns: dict[int, list[tuple[Sheet, Window]]] = defaultdict(list)
        for sheet in self._sheets:
            for window in sheet.windows:
                turns[window.turn].append((sheet, window))
        for _, shown in sorted(turns.items()):
            for batch in _batches(shown):
                yield Part(batch)
            # Only now, so that it doesn't matter which windows went together.
            for sheet, window in shown:
                sheet.hole[window.core.slices] = False

    @property
    def filled(self) -> list[np.ndarray]:
        """The filled pictures, new arrays in the order given.

        Outside the holes, and in the padding, a result has its picture's own bytes. A result
        doesn't depend on the pictures that are filled with it.
        """
        return [sheet.picture for sheet in self._sheets]


def content_window(size: tuple[int, int], padding: Padding) -> Window:
    """The window of region `content`: on a canvas of `size` (height, width), without the padding.

    Raises ValueError for a padding that leaves nothing.
    """
    canvas = Box(0, 0, *size)
    inside = content(size, padding)
    return Window(frame(inside.grown(MARGIN, canvas), canvas, canvas), inside)


class Part:
    """Windows of one size, for one call of the network."""

    def __init__(self, windows: Sequence[tuple[Sheet, Window]]) -> None:
        self._windows = windows
        self.images = [sheet.picture[window.frame.slices] for sheet, window in windows]
        #: uint8 H×W: 255 in the holes.
        self.masks = [sheet.mask(window.frame) for sheet, window in windows]

    def paste(self, filled: Sequence[np.ndarray]) -> None:
        """Takes over what the network has made of `images`, in the holes."""
        for (sheet, window), picture in zip(self._windows, filled, strict=True):
            sheet.paste(window, picture)


class Sheet:
    """A picture while it is filled: its pixels so far, the holes that are left, and its windows."""

    def __init__(
        self,
        image: np.ndarray,
        hole: np.ndarray,
        padding: Padding,
        region: Literal["content", "mask"],
    ) -> None:
        """`image`: uint8 H×W×3. `hole`: bool H×W, is changed."""
        self.picture = np.array(image, order="C")
        #: bool H×W
        self.hole = hole
        self.windows = self._windows(padding, region)

    def _windows(self, padding: Padding, region: Literal["content", "mask"]) -> list[Window]:
        canvas = whole(self.hole)
        inside = content(canvas.size, padding)
        if not self.hole[inside.slices].any():
            return []
        if region == "content":
            return [content_window(canvas.size, padding)]
        left = fill_planes(self.picture[inside.slices], self.hole[inside.slices])
        holes = [box.moved(inside.top, inside.left) for box in left]
        windows = plan(holes, Ground(inside, canvas))
        return [window for window in windows if self.hole[window.core.slices].any()]

    def mask(self, part: Box) -> np.ndarray:
        """uint8 H×W: 255 in the holes."""
        return self.hole[part.slices].astype(np.uint8) * np.uint8(255)

    def paste(self, window: Window, filled: np.ndarray) -> None:
        """Takes over what the network has made of the holes in a window's core."""
        place = window.core.moved(-window.frame.top, -window.frame.left)
        self.paste_core(window, filled[place.slices])

    def paste_core(self, window: Window, filled: np.ndarray) -> None:
        """The same, of the core alone."""
        hole = self.hole[window.core.slices]
        self.picture[window.core.slices][hole] = filled[hole]


def _batches(
    shown: Sequence[tuple[Sheet, Window]],
) -> Iterator[list[tuple[Sheet, Window]]]:
    """Batches of windows of one size, each of as many as MOST_AT_ONCE allows."""
    sizes: dict[tuple[int, int], list[tuple[Sheet, Window]]] = defaultdict(list)
    for sheet, window in shown:
        sizes[window.frame.size].append((sheet, window))
    for (height, width), alike in sizes.items():
        count = max(1, MOST_AT_ONCE // (height * width))
        for first in range(0, len(alike), count):
            yield alike[first : first + count]
