"""Pictures and masks of any accepted type, as uint8 arrays."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.contract import Segment
from core.errors import BadMessage
from core.pixels.arrays import Picture

#: A picture of floats that are all below this is taken for one on the scale from 0 to 1. Resizing
#: may have put some values a little above 1.
LOWEST_MAXIMUM: Final = 2


def as_picture(segment: Segment, image: npt.NDArray[Any]) -> Picture:
    """A picture as uint8; floating-point values have the same range, 0 to 255.

    Raises BadMessage for other values, and for a picture on the scale from 0 to 1, which would
    become black.
    """
    if image.dtype == np.uint8:
        return image
    _require_finite(segment, image)
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255:
        raise BadMessage(
            "bad_values", f"segment {segment.name!r} has values from {low:g} to {high:g}, not 0…255"
        )
    if 0 < high < LOWEST_MAXIMUM:
        raise BadMessage(
            "bad_values",
            f"segment {segment.name!r} has values from {low:g} to {high:g}, which is black on the "
            "scale of 0 to 255: multiply a picture on the scale of 0 to 1 by 255, or send uint8",
        )
    rounded: Picture = np.rint(image).astype(np.uint8)
    return rounded


def as_mask(segment: Segment, mask: npt.NDArray[Any]) -> Picture:
    """A mask as uint8, H×W. A pixel is above an integer threshold if one of its channels was."""
    if mask.ndim == 3:  # H×W×1 or H×W×3; each channel by itself is 10 times as fast as max(2)
        channels = [mask[..., channel] for channel in range(mask.shape[2])]
        mask = channels[0]
        for channel in channels[1:]:
            mask = np.maximum(mask, channel)
    if mask.dtype == np.uint8:
        return mask
    if mask.dtype == np.bool_:
        return mask.astype(np.uint8) * np.uint8(255)
    _require_finite(segment, mask)
    rounded: Picture = np.ceil(mask).clip(0, 255).astype(np.uint8)
    return rounded


def _require_finite(segment: Segment, array: npt.NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise BadMessage("bad_values", f"segment {segment.name!r} contains NaN or infinity")
