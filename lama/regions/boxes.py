"""Rectangles of pixels, and the windows around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: (up to, step), pixels: the sides of windows are multiples of the step, or a whole side of their
#: picture. Kernels, buffers and graphs are made per size, so there should be few sizes.
STEPS = ((384, 64), (1024, 128), (2**62, 256))


@dataclass(frozen=True, slots=True)
class Box:
    """Rows `top` to `bottom` and columns `left` to `right`, the ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def around(self, other: Box) -> Box:
        """The smallest box that holds both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def grown(self, margin: int, within: Box) -> Box:
        """The box with `margin` more on all four sides, as far as `within` reaches."""
        return Box(
            max(self.top - margin, within.top),
            max(self.left - margin, within.left),
            min(self.bottom + margin, within.bottom),
            min(self.right + margin, within.right),
        )

    def padding(self, core: Box) -> tuple[int, int, int, int]:
        """What the box has around `core`, which it holds: (top, right, bottom, left)."""
        return (
            core.top - self.top,
            self.right - core.right,
            self.bottom - core.bottom,
            core.left - self.left,
        )

    def moved(self, down: int, right: int) -> Box:
        return Box(self.top + down, self.left + right, self.bottom + down, self.right + right)


def whole(array: np.ndarray) -> Box:
    """The box of a picture or a mask, H×W or H×W×3."""
    return Box(0, 0, array.shape[0], array.shape[1])


def content(size: tuple[int, int], padding: tuple[int, int, int, int]) -> Box:
    """The box inside the padding (top, right, bottom, left), pixels, of (height, width).

    Raises ValueError if the padding leaves nothing.
    """
    top, right, bottom, left = padding
    box = Box(top, left, size[0] - bottom, size[1] - right)
    if min(padding) < 0 or min(box.size) < 1:
        raise ValueError(f"padding {list(padding)} leaves nothing of {size[1]}×{size[0]}")
    return box


def frame(needed: Box, inside: Box, canvas: Box) -> Box:
    """The window that holds `needed`: its sides are multiples (STEPS) or whole sides of `canvas`.

    It extends beyond `needed` into `inside` first, which lies in `canvas`.
    """
    top, bottom = _span(
        needed.top, needed.bottom, (inside.top, inside.bottom), (canvas.top, canvas.bottom)
    )
    left, right = _span(
        needed.left, needed.right, (inside.left, inside.right), (canvas.left, canvas.right)
    )
    return Box(top, left, bottom, right)


def _span(
    start: int, end: int, inside: tuple[int, int], canvas: tuple[int, int]
) -> tuple[int, int]:
    """`frame` along one axis."""
    length = min(rounded_up(end - start), canvas[1] - canvas[0])
    first = start - (length - (end - start)) // 2
    if length <= inside[1] - inside[0]:
        low, high = inside
    else:
        # Wider than the content: all of it, and as much of the padding on either side.
        first = (inside[0] + inside[1] - length) // 2
        low, high = canvas
    first = min(max(first, low), high - length)
    return first, first + length


def rounded_up(side: int) -> int:
    """The shortest side of a window that is not shorter than `side`."""
    step = next(step for longest, step in STEPS if side <= longest)
    return -(-side // step) * step


def bounds_of(hole: np.ndarray) -> Box:
    """The smallest box with every True of bool H×W, which has at least one."""
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
