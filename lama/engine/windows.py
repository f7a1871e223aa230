"""The windows of the decoder that contain the hole.

The picture outside the hole is kept, and the decoder sees little around each pixel, so it need not
be computed elsewhere. Positions and sizes are in units: pixels of the features, 8 by 8 of the
picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hole = npt.NDArray[np.bool_]

#: Context units around the part that counts, unless the picture ends there. The last convolution
#: reads 3 pixels around a pixel; a transposed one reads, for a pixel 2i + 1, the pixel i + 1 too,
#: which over three of them is less than 8 pixels more on the right and below.
BEFORE, AFTER = 1, 2

#: Heights and widths that windows may have, without their context. All windows of a picture have
#: the same shape: preparing the convolutions for a new shape takes milliseconds.
_SHAPES = [(4, 8), (8, 8), (8, 16), (8, 32), (16, 16), (16, 32), (32, 32)]


@dataclass(frozen=True)
class Window:
    """A part of the features that is decoded, and the part of the output that counts."""

    #: In the features.
    rows: slice
    columns: slice
    #: In the decoder's output for this window, and the same pixels in the picture.
    valid: tuple[slice, slice]
    target: tuple[slice, slice]


def windows(hole: Hole, unit: int) -> list[Window]:
    """Windows that together contain the hole (H×W), with little to compute."""
    height, width = hole.shape[0] // unit, hole.shape[1] // unit
    # H, W -> units, pixels, units, pixels -> units
    cells: Hole = hole.reshape(height, unit, width, unit).any(axis=(1, 3))  # type: ignore[assignment]
    cheapest = [(0, 0, height, width)]
    cost = height * width
    for rows, columns in _SHAPES:
        size = min(height, rows + BEFORE + AFTER), min(width, columns + BEFORE + AFTER)
        found = []
        for corner in _cover(cells, rows, columns):
            found.append((*corner, rows, columns))
            if len(found) * size[0] * size[1] >= cost:
                break
        else:
            cheapest, cost = found, len(found) * size[0] * size[1]
    return [_window(*part, (height, width), unit) for part in cheapest]


def _cover(cells: Hole, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Top left corners of rectangles that cover all cells."""
    for top in _starts(np.flatnonzero(cells.any(axis=1)), rows):
        strip = cells[top : top + rows]
        for left in _starts(np.flatnonzero(strip.any(axis=0)), columns):
            yield top, left


def _starts(places: npt.NDArray[np.intp], length: int) -> Iterator[int]:
    """Where spans of `length` start that together hold all `places`, which ascend."""
    index = 0
    while index < len(places):
        start = int(places[index])
        yield start
        index = int(np.searchsorted(places, start + length))


def _window(
    top: int, left: int, rows: int, columns: int, size: tuple[int, int], unit: int
) -> Window:
    row, column = _along(top, rows, size[0], unit), _along(left, columns, size[1], unit)
    return Window(row[0], column[0], (row[1], column[1]), (row[2], column[2]))


def _along(start: int, count: int, length: int, unit: int) -> tuple[slice, slice, slice]:
    """Along one axis: the window in the features, the valid part of its output, and its target."""
    around = min(length, count + BEFORE + AFTER)
    # At the end of the picture the window moves back instead of shrinking.
    first = min(max(0, start - BEFORE), length - around)
    stop = min(length, start + count)
    valid = slice((start - first) * unit, (stop - first) * unit)
    return slice(first, first + around), valid, slice(start * unit, stop * unit)
