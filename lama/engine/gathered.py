"""The decoder on a GPU only where holes are: windows of a fixed grid, gathered into one batch.

`windows` does it on a CPU, one window after another, wherever they fit best. A GPU wants all of
them at once and always as many as are recorded, and its host must not wait for it. So the windows
are those of a grid, their number is rounded up, and the device finds out which they are. Positions
are in units: pixels of the features, 8 by 8 of the picture.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .windows import AFTER, BEFORE

#: The side of a cell of the grid. With its context it has not quite twice as many units.
SIDE: Final = 8

#: The numbers of windows that are computed.
COUNTS: Final = (64, 128, 256, 512)

#: The most units that windows may have, as a share of all: gathering and scattering take time too.
MOST: Final = 0.8

_AROUND = SIDE + BEFORE + AFTER


def cells_with(hole: npt.NDArray[np.bool_], unit: int) -> int:
    """The cells of the grid with a pixel of the hole, H×W; W is a multiple of 8."""
    side = SIDE * unit
    # Eight pixels at a time
    words = np.ascontiguousarray(hole).view(np.uint64)
    rows = np.bitwise_or.reduceat(words, range(0, hole.shape[0], side), axis=0)
    cells = np.bitwise_or.reduceat(rows, range(0, words.shape[1], side // 8), axis=1)
    return int(np.count_nonzero(cells))


def rounded_count(cells: int, batch: int, height: int, width: int) -> int:
    """The number of windows for so many cells with holes; 0 if all of the decoder is cheaper.

    `height` and `width` are of the features.
    """
    if min(height, width) < _AROUND:
        return 0
    count = next((count for count in COUNTS if count >= cells), 0)
    return count if count * _AROUND**2 <= MOST * batch * height * width else 0


class Gathered:
    """The windows of a batch in which there are holes."""

    def __init__(self, pixels: Tensor, count: int, unit: int) -> None:
        """`pixels`: B×H×W×4 uint8, the last not 0 in the hole, which is in at most `count` cells.

        Does not wait for the device.
        """
        batch, height, width = len(pixels), pixels.shape[1] // unit, pixels.shape[2] // unit
        device = pixels.device
        down, across = -(-height // SIDE), -(-width // SIDE)
        place = _first_marked(_marked(pixels[..., 3], down, across, SIDE * unit).flatten(), count)
        self._shape = batch, height, width
        #: Which picture: T×1×1.
        self._picture = (place // (down * across))[:, None, None]
        top, left = place // across % down * SIDE, place % across * SIDE
        #: The first row and column with their context: T.
        self._first = _first(top, height), _first(left, width)
        #: Rows and columns of the cells: T×SIDE. What is outside the features is the last again.
        cell = torch.arange(SIDE, device=device)
        self._rows = (top[:, None] + cell).clamp(max=height - 1)
        self._columns = (left[:, None] + cell).clamp(max=width - 1)

    def windows(self, features: Tensor) -> Tensor:
        """B×H×W×C to T×h×w×C."""
        around = torch.arange(_AROUND, device=features.device)
        rows, columns = (first[:, None] + around for first in self._first)
        return features[self._picture, rows[:, :, None], columns[:, None, :]]

    def spread(self, decoded: Tensor) -> Tensor:
        """What is decoded of each window, T×n·h×n·w×C, in its place: B×n·H×n·W×C, else 0."""
        times = decoded.shape[1] // _AROUND
        batch, height, width = self._shape
        whole = decoded.new_zeros((batch, times * height, times * width, decoded.shape[3]))
        window = torch.arange(len(decoded), device=decoded.device)[:, None, None]
        rows, columns = _finer(self._rows, times), _finer(self._columns, times)
        top, left = (times * first[:, None] for first in self._first)
        part = decoded[window, (rows - top)[:, :, None], (columns - left)[:, None, :]]
        whole[self._picture, rows[:, :, None], columns[:, None, :]] = part
        return whole


def _marked(mask: Tensor, down: int, across: int, side: int) -> Tensor:
    """Whether the cells have a pixel of the mask, B×H×W: B×down×across."""
    batch, height, width = mask.shape
    whole = mask.new_zeros((batch, down * side, across * side))
    whole[:, :height, :width] = mask
    # B, H, W -> B, down, side, across, side
    return whole.view(batch, down, side, across, side).amax(dim=(2, 4)) > 0


def _first_marked(marked: Tensor, count: int) -> Tensor:
    """The places of the first `count` that are marked; 0 for those that are missing."""
    # Where each goes; those that are not marked, behind the others.
    order = torch.where(marked, marked.cumsum(0) - 1, count).clamp(max=count)
    places = order.new_zeros(count + 1)
    return places.scatter_(0, order, torch.arange(len(marked), device=marked.device))[:count]


def _first(start: Tensor, length: int) -> Tensor:
    """The first row of windows; at the end of the picture they move back."""
    return (start - BEFORE).clamp(0, length - _AROUND)


def _finer(units: Tensor, times: int) -> Tensor:
    """T×n to T×(times·n): the rows of a map with `times` rows per unit."""
    return (times * units[..., None] + torch.arange(times, device=units.device)).flatten(1)
