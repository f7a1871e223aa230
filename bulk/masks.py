"""Masks, from files or from text quadrilaterals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from bulk.codec import load, open_checked
from bulk.errors import PictureError
from core.pixels.arrays import Hole as Hole  # for those who get theirs from here

#: Supported formats of masks, by Pillow's names. None of them starts another program.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA")
SUFFIXES: Final = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".tga"),
)

#: Pixels by which a quadrilateral is grown on all sides.
GROWN: Final = 1

#: Largest coordinate that is accepted, in pixels.
_FURTHEST: Final = 1e6


def decode_mask(content: bytes, limit: int, threshold: int) -> Hole:
    """bool H×W, with the EXIF orientation applied: True above `threshold` (0 to 255).

    Transparent pixels are no hole. Raises PictureError.
    """
    try:
        image = open_checked(content, limit, FORMATS)
        load(image)
        image = ImageOps.exif_transpose(image)
    except PictureError as error:
        raise PictureError(f"mask_{error.reason}", f"its mask: {error}") from error
    if image.mode.startswith(
        ("I", "F")
    ):  # 16 bits and more: clipped, so that no value wraps around to 0
        return np.array(np.clip(np.asarray(image), 0, 255) > threshold)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        ground = Image.new("RGBA", clear.size, (0, 0, 0, 255))
        image = Image.alpha_composite(ground, clear)
    return np.array(np.asarray(image.convert("L")) > threshold)


def mask_of_boxes(boxes: Any, size: tuple[int, int]) -> Hole:
    """bool (height, width): polygons filled and grown by GROWN pixels.

    Each box is its corners [[x, y], …], or the same numbers in one list, in pixels. Raises
    PictureError if it is anything else.
    """
    if not isinstance(boxes, Sequence) or isinstance(boxes, str):
        raise PictureError("bad_boxes", f"boxes are {_shown(boxes)}, must be a list")
    mask = np.zeros(size, np.uint8)
    for box in boxes:
        # One by one: fillPoly leaves a gap where two polygons of one call overlap.
        cv2.fillPoly(mask, [np.rint(_corners(box)).astype(np.int32)], 255)
    side = 2 * GROWN + 1
    return np.asarray(cv2.dilate(mask, np.ones((side, side), np.uint8))) > 0


def as_stored(hole: Hole, orientation: int, size: tuple[int, int]) -> Hole:
    """Turn a mask of the displayed picture to fit the stored picture, of (height, width) `size`.

    A mask that fits only without turning is used as it is. Raises PictureError if neither fits.
    """
    turns: dict[int, Callable[[Hole], Hole]] = {
        2: np.fliplr,
        3: lambda mask: np.rot90(mask, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda mask: np.rot90(mask, 1),
        7: lambda mask: np.rot90(mask, 2).T,
        8: lambda mask: np.rot90(mask, -1),
    }
    turned = turns[orientation](hole) if orientation in turns else hole
    for fitting in (turned, hole):
        if fitting.shape == size:
            return np.ascontiguousarray(fitting)
    raise PictureError(
        "mask_size",
        f"its mask is {hole.shape[1]}×{hole.shape[0]}, the picture {size[1]}×{size[0]}",
    )


def _corners(box: Any) -> npt.NDArray[np.float64]:
    """N×2: x, y."""
    try:
        corners = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim == 1 and corners.size >= 6 and corners.size % 2 == 0:
        corners = corners.reshape(-1, 2)
    is_polygon = corners.ndim == 2 and corners.shape[0] >= 3 and corners.shape[1] == 2
    if not is_polygon or not math.isfinite(corners.sum()) or np.abs(corners).max() > _FURTHEST:
        raise PictureError(
            "bad_boxes", f"a box is {_shown(box)}, must be corners [[x, y], …] in pixels"
        )
    return corners


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
