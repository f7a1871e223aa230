"""Which windows of the decoder reach the hole.

The picture outside the hole is kept, so that the decoder, which sees little around each pixel,
need not be computed there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Window:
    """A part of the features that is decoded, and which part of the outcome counts."""

    #: In the features.
    rows: slice
    columns: slice
    #: In what comes out of the decoder for this window, and the same pixels in the picture.
    valid: tuple[slice, slice]
    target: tuple[slice, slice]


def windows(hole: npt.NDArray[np.bool_], unit: int) -> list[Window]:
    """Windows that together hold all of the hole (H×W)."""
    height, width = hole.shape
    whole = slice(0, height), slice(0, width)
    return [Window(slice(0, height // unit), slice(0, width // unit), whole, whole)]
