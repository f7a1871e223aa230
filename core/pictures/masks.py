"""Masks, from files or from text quadrilaterals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from core.pictures import png, turning
from core.pictures.codec import load, open_checked
from core.pictures.errors import PictureError, Remark
from core.pictures.formats import PICTURE_SUFFIXES
from core.pixels.arrays import Hole

#: Supported formats of masks, by Pillow's names. None of them starts another program.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF")
NAMES: Final = "PNG, JPEG, WebP, AVIF, BMP, GIF, TIFF, PPM or TGA"
SUFFIXES: Final = (*PICTURE_SUFFIXES, *(".gif", ".ppm", ".pgm", ".pbm", ".tga"))

#: The code of a picture without a hole.
NO_HOLE: Final = "no_hole"

#: A larger share of a picture is hardly text: the mask may be inverted.
MOST_LIKELY: Final = 0.9

#: Levels by which the visible pixels of one colour may differ, because of lossy compression.
ONE_COLOUR: Final = 16

#: Pixels by which a quadrilateral is grown on all sides.
GROWN: Final = 1

#: Largest coordinate that is accepted, in pixels.
_FURTHEST: Final = 1e6


def decode_mask(content: bytes, limit: int, threshold: int) -> Hole:
    """bool H×W, with the EXIF orientation applied: True above `threshold` (0 to 255).

    Transparent pixels are no hole. If what is visible has one colour, or is black, the shape is in
    the alpha channel: editors export layers like that. Raises PictureError.
    """
    if content.startswith(png.SIGNATURE):
        content, _ = png.without_texts(content)
    try:
        image = open_checked(content, limit, FORMATS, NAMES)
        load(image)
        image = ImageOps.exif_transpose(image)
    except PictureError as error:
        raise PictureError(f"mask_{error.reason}", f"its mask: {error}") from error
    if image.mode.startswith(
        ("I", "F")
    ):  # 16 bits and more: clipped, so that no value wraps around to 0
        return np.array(np.clip(np.asarray(image), 0, 255) > threshold)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _above_with_alpha(np.asarray(image.convert("RGBA")), threshold)
    return np.array(np.asarray(image.convert("L")) > threshold)


def remarks_on(hole: Hole) -> tuple[Remark, ...]:
    """What a user should know of a hole that may not be meant."""
    share = float(hole.mean())
    if not share:
        return (Remark(NO_HOLE, "it has no hole, so nothing is erased"),)
    if share > MOST_LIKELY:
        text = f"{share:.0%} of it is a hole: is its mask inverted?"
        return (Remark("mostly_hole", text),)
    return ()


def _above_with_alpha(rgba: npt.NDArray[np.uint8], threshold: int) -> Hole:
    alpha = rgba[..., 3]
    grey = np.asarray(Image.fromarray(rgba[..., :3]).convert("L"))
    clear = alpha == 0
    if not clear.all() and alpha.min() != alpha.max():
        seen = rgba[..., :3][alpha >= 128 if (alpha >= 128).any() else ~clear]
        is_black = not (grey[~clear] > threshold).any()
        has_one_colour = int((seen.max(axis=0).astype(int) - seen.min(axis=0)).max()) <= ONE_COLOUR
        if is_black or has_one_colour:
            return np.asarray(alpha > threshold)
    # Over black: a pixel that is half transparent counts half.
    return np.asarray((grey.astype(np.uint16) * alpha + 127) // 255 > threshold)


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
    for fitting in (turning.as_stored(hole, orientation), hole):
        if fitting.shape == size:
            return np.ascontiguousarray(fitting)
    raise PictureError(
        "mask_size", f"its mask is {hole.shape[1]}×{hole.shape[0]}, the picture {size[1]}×{size[0]}"
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
