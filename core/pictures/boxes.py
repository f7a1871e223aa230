"""Masks from text quadrilaterals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from core.fields import shown
from core.pictures.errors import PictureError, Remark
from core.pixels.arrays import Hole

#: Pixels by which a quadrilateral is grown on all sides.
GROWN: Final = 1

#: Largest coordinate that is accepted, in pixels.
_FURTHEST: Final = 1e6

#: A box that reaches no further is no text: its coordinates are shares of the picture's size.
_SHARES: Final = 1.5

#: N×2: x, y.
_Corners = npt.NDArray[np.float64]


def mask_of_boxes(boxes: Any, size: tuple[int, int]) -> tuple[Hole, tuple[Remark, ...]]:
    """bool (height, width): polygons filled and grown by GROWN pixels; and what is odd about them.

    Each box is its corners [[x, y], …] in their order around it, or the same numbers in one list,
    in pixels. A box whose sides cross has its corners in another order: its convex hull is filled.
    Raises PictureError if it is anything else.
    """
    if not isinstance(boxes, Sequence) or isinstance(boxes, str):
        raise PictureError("bad_boxes", f"boxes are {shown(boxes)}, must be a list")
    height, width = size
    mask = np.zeros(size, np.uint8)
    outside = 0
    for box in boxes:
        corners = np.rint(_corners(box, size)).astype(np.int32)
        low, high = corners.min(axis=0) - GROWN, corners.max(axis=0) + GROWN
        outside += bool((high < 0).any() or (low >= (width, height)).any())
        is_ring = not _crosses_itself(corners.astype(np.float64))
        # One by one: fillPoly leaves a gap where two polygons of one call overlap.
        cv2.fillPoly(mask, [corners if is_ring else cv2.convexHull(corners)], 255)
    side = 2 * GROWN + 1
    hole = np.asarray(cv2.dilate(mask, np.ones((side, side), np.uint8))) > 0
    if not outside:
        return hole, ()
    text = (
        f"of {len(boxes)} boxes {outside} lie outside the picture, which is {width}×{height}: are "
        "they those of a picture of another size?"
    )
    return hole, (Remark("box_outside", text),)


def _corners(box: Any, size: tuple[int, int]) -> _Corners:
    try:
        corners = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim == 1 and corners.size >= 6 and corners.size % 2 == 0:
        corners = corners.reshape(-1, 2)
    is_polygon = corners.ndim == 2 and corners.shape[0] >= 3 and corners.shape[1] == 2
    if not is_polygon or not math.isfinite(corners.sum()) or np.abs(corners).max() > _FURTHEST:
        raise PictureError(
            "bad_boxes", f"a box is {shown(box)}, must be corners [[x, y], …] in pixels"
        )
    if np.abs(corners).max() <= _SHARES and max(size) > 2 * _SHARES:
        raise PictureError(
            "bad_boxes",
            f"a box is {shown(box)}, which looks like shares of the picture's size: multiply x "
            f"by {size[1]} and y by {size[0]}, the pixels of its width and height",
        )
    return corners


def _crosses_itself(corners: _Corners) -> bool:
    """Whether two sides of a polygon cross; that they touch is not enough."""
    starts, ends = corners, np.roll(corners, -1, axis=0)
    for start, end in zip(starts, ends, strict=True):
        apart = _turn(start, end, starts) * _turn(start, end, ends) < 0
        divided = _turn(starts, ends, start) * _turn(starts, ends, end) < 0
        if (apart & divided).any():
            return True
    return False


def _turn(start: _Corners, end: _Corners, point: _Corners) -> npt.NDArray[np.float64]:
    """−1, 0 or 1: on which side of the line from `start` to `end` a point is."""
    along, to = end - start, point - start
    return np.asarray(np.sign(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]))
