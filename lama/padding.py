"""Pads a picture to a size that the network takes, and undoes the padding of a pipeline.

Importing this module does not load torch: a process may only want to restore pictures.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import cv2
import numpy as np

#: The most pixels of a picture; a larger number is a mistake.
MOST_PIXELS = 2**30


def padded_side(side: int, unit: int) -> int:
    """The next multiple of the network's unit, at least two: a single one cannot be reflected."""
    return max(2 * unit, -(-side // unit) * unit)


def pad(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The array extended to `size` by mirroring its bottom and right edges as often as needed."""
    height, width = array.shape[:2]
    extra = [(0, size[0] - height), (0, size[1] - width)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, extra, mode="symmetric")


def restore_from_padding(
    img: np.ndarray, padding_info: Sequence[int], original_size: Sequence[int]
) -> np.ndarray:
    """The content of a letterbox: padding is cut off, then it is resized bilinearly if necessary.

    `img`: H×W or H×W×C. `padding_info`: [top, right, bottom, left], pixels. `original_size`:
    [height, width], pixels. Returns a new array of `img`'s dtype. Raises ValueError where the
    numbers don't fit together.
    """
    restored = without_padding(img, padding_info, original_size)
    return restored.copy() if np.may_share_memory(restored, img) else restored


def without_padding(
    img: np.ndarray, padding_info: Sequence[int], original_size: Sequence[int]
) -> np.ndarray:
    """Like `restore_from_padding`, but where nothing has to be resized a view of `img`."""
    if not isinstance(img, np.ndarray) or img.ndim not in (2, 3):
        raise ValueError(f"img has shape {getattr(img, 'shape', None)}: H×W or H×W×C is needed")
    top, right, bottom, left = _numbers("padding_info", padding_info, 4, lowest=0)
    height, width = _numbers("original_size", original_size, 2, lowest=1)
    if height * width > MOST_PIXELS:
        raise ValueError(f"original_size {list(original_size)} is above {MOST_PIXELS} pixels")
    cut = img[top : max(top, img.shape[0] - bottom), left : max(left, img.shape[1] - right)]
    if 0 in cut.shape:
        raise ValueError(f"padding_info {list(padding_info)} leaves nothing of {img.shape}")
    if cut.shape[:2] == (height, width):
        return cut
    resized = cv2.resize(np.ascontiguousarray(cut), (width, height), interpolation=cv2.INTER_LINEAR)
    # OpenCV drops an axis of length one.
    return np.asarray(resized).reshape(height, width, *cut.shape[2:])


def _numbers(name: str, values: Sequence[int], count: int, lowest: int) -> list[int]:
    try:
        numbers = [operator.index(value) for value in values]
    except TypeError:
        numbers = []
    if len(numbers) != count or not all(number >= lowest for number in numbers):
        raise ValueError(f"{name} is {values!r}: {count} whole numbers from {lowest} are needed")
    return numbers
