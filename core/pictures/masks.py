"""Masks, from files."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from core.pictures import png, turning
from core.pictures.codec import decode_16, frames_of, load, open_checked, orientation_of
from core.pictures.errors import PictureError, Remark
from core.pictures.formats import PICTURE_SUFFIXES, is_lossy
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

#: The share of transparent pixels above which they are the ground of a drawn layer.
GROUND: Final = 0.5

_Levels = npt.NDArray[np.uint8]


def decode_mask(
    content: bytes, limit: int, threshold: int, name: str = ""
) -> tuple[Hole, tuple[Remark, ...]]:
    """bool H×W, with the EXIF orientation applied; and what a user should know about the mask.

    True where a channel of the colours is above `threshold` (0 to 255; values of 16 bits are not
    scaled). Transparent pixels are no hole. If what is visible has one colour, or is black, or is
    on transparent ground, the alpha channel has the shape: editors export layers like that. Raises
    PictureError, which says the `name` of the mask's file, if it has one.
    """
    try:
        return _decoded(content, limit, threshold)
    except PictureError as error:
        named = f"its mask {name}" if name else "its mask"
        raise PictureError(f"mask_{error.reason}", f"{named}: {error}") from error


def remarks_on(hole: Hole) -> tuple[Remark, ...]:
    """What a user should know of a hole that may not be meant."""
    share = float(hole.mean())
    if not share:
        return (Remark(NO_HOLE, "it has no hole, so nothing is erased"),)
    if share > MOST_LIKELY:
        text = f"{share:.0%} of it is a hole: is its mask inverted?"
        return (Remark("mostly_hole", text),)
    return ()


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


def _decoded(content: bytes, limit: int, threshold: int) -> tuple[Hole, tuple[Remark, ...]]:
    if content.startswith(png.SIGNATURE):
        content, _ = png.without_texts(content)
    image = open_checked(content, limit, FORMATS, NAMES)
    # A phone's JPEG may have a preview behind it, which is no frame.
    if image.format not in ("JPEG", "MPO") and frames_of(image) > 1:
        raise PictureError(
            "several_frames", "it has several frames or pages: save the right one as its own file"
        )
    may_have_noise = is_lossy(image, content) or image.mode == "LAB"
    deep = _deep_colours(image, content)
    if deep is None:
        load(image)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):  # 16 bits and more, or fractions
            deep = np.asarray(image)[..., None]
    if deep is not None:
        # Clipped, so that no value wraps around to 0.
        colours = np.clip(deep[..., :3], 0, 255)
        if deep.shape[2] != 4:
            return _highest(colours) > threshold, ()
        alpha = np.maximum(deep[..., 3] >> 8, deep[..., 3] > 0).astype(np.uint8)
        visible = colours.astype(np.uint8)
        return _above_with_alpha(visible, _highest(visible), alpha, threshold)
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    is_grey = image.mode in ("1", "L")
    channels = np.asarray(image.convert("RGBA" if has_alpha else "L" if is_grey else "RGB"))
    if channels.ndim == 2:
        return channels > threshold, ()
    levels = _highest(channels[..., :3])
    if may_have_noise:
        # What is darker than the darkest grey is noise of the compression or the conversion.
        levels[cv2.cvtColor(channels[..., :3], cv2.COLOR_RGB2GRAY) == 0] = 0
    if not has_alpha:
        return levels > threshold, ()
    return _above_with_alpha(channels[..., :3], levels, channels[..., 3], threshold)


def _deep_colours(image: Image.Image, content: bytes) -> npt.NDArray[np.uint16] | None:
    """uint16 H×W×C, 3 or 4 channels, turned upright, of a file whose colours Pillow would reduce.

    None for all other files.
    """
    if image.format == "PNG" and png.has_16_bits(content):
        array = decode_16(content)
        if array.shape[2] < 3:
            array = np.dstack([array[..., :1]] * 3 + [array[..., 1:]])
        return turning.turned_upright(array, orientation_of(image))
    if image.format not in ("TIFF", "PPM") or image.mode not in ("RGB", "RGBA", "RGBX"):
        return None
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if read is None or read.dtype != np.uint16 or read.ndim != 3:
        return None
    return np.asarray(read)


def _highest(colours: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """H×W: the highest of the channels of each pixel, H×W×C."""
    highest = colours[..., 0].copy()
    for channel in range(1, colours.shape[2]):
        np.maximum(highest, colours[..., channel], out=highest)
    return highest


def _above_with_alpha(
    colours: _Levels, levels: _Levels, alpha: _Levels, threshold: int
) -> tuple[Hole, tuple[Remark, ...]]:
    """`colours` is H×W×3; `levels`, H×W, is their highest channel."""
    clear = alpha == 0
    remarks: tuple[Remark, ...] = ()
    if not clear.all() and alpha.min() != alpha.max():
        plain = alpha >= 128 if (alpha >= 128).any() else ~clear
        seen = colours[plain]
        black = levels[plain] <= threshold
        has_one_colour = int((seen.max(axis=0).astype(int) - seen.min(axis=0)).max()) <= ONE_COLOUR
        if has_one_colour or not (levels[~clear] > threshold).any():
            return alpha > threshold, ()
        is_drawn = float(clear.mean()) > GROUND
        if black.any():
            taken = "all that is visible is" if is_drawn else "its visible black is not"
            text = (
                f"its mask has transparent, black and coloured parts: {taken} taken for a hole; "
                "save it in black and white without transparency if that is wrong"
            )
            remarks = (Remark("mask_transparent", text),)
        if is_drawn:
            return alpha > threshold, remarks
    # Over black: a pixel that is half transparent counts half.
    return (levels.astype(np.uint16) * alpha + 127) // 255 > threshold, remarks
