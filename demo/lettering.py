"""Puts lines of text on a picture and makes the mask that goes with them.

The fonts are those built into OpenCV 5: `sans` and `italic` (Latin, any weight from 100 to 900)
and `uni` (one weight). What the first two lack, such as Korean and Chinese, comes from the third.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

BLACK: Color = (24, 24, 24)
WHITE: Color = (255, 255, 255)

#: Pixels by which a glyph mask is grown: the soft edge of the glyphs and what JPEG smears there.
GLYPH_GROWTH = 3

#: Pixels by which a text line's quadrilateral is grown.
BOX_GROWTH = 1

#: Coverage (0 to 255) below which a shadow counts as invisible and is not drawn at all.
FAINTEST = 8

#: Which part of a line's width lies to the left of its anchor.
ALIGN = {"left": 0.0, "center": 0.5, "right": 1.0}


class MaskStyle(StrEnum):
    """How a mask follows the text: one quadrilateral per line, or the glyphs themselves."""

    BOXES = "boxes"
    GLYPHS = "glyphs"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text.

    `at` is (x, y) in pixels, a point on the baseline: its left end, middle or right end according
    to `align`. `size` is the font size in pixels. Colours are BGR. `tilt` is the largest angle in
    degrees by which the line may be turned around `at`, to either side.
    """

    text: str
    at: tuple[int, int]
    size: int
    color: Color = BLACK
    weight: int = 400
    font: Literal["sans", "italic", "uni"] = "sans"
    align: Literal["left", "center", "right"] = "left"
    outline: Color | None = None
    shadow: bool = False
    tilt: float = 0


def paragraph(first: Line, *more: str, spacing: float = 1.5) -> list[Line]:
    """A line and further ones of the same look below it, `spacing` font sizes apart."""
    x, y = first.at
    step = spacing * first.size
    return [first] + [
        replace(first, text=text, at=(x, y + round(number * step)))
        for number, text in enumerate(more, start=1)
    ]


def letter(
    clean: Picture, lines: Sequence[Line], style: MaskStyle, rng: np.random.Generator
) -> tuple[Picture, Picture]:
    """Draw lines on a copy of a BGR picture (H×W×3); the copy and its mask (H×W, 0 or 255).

    Every pixel that differs from `clean` is in the mask. Raises ValueError for a line that does
    not fit on the picture.
    """
    before = clean.copy()
    mask = np.zeros(clean.shape[:2], np.uint8)
    for line in lines:
        touched = _draw(before, line, rng)
        if not touched.any():
            raise ValueError(f"the line {line.text!r} at {line.at} leaves no ink on the picture")
        _add_to_mask(mask, touched, style, tilted=line.tilt > 0)
    return before, mask


def _draw(picture: Picture, line: Line, rng: np.random.Generator) -> Picture:
    """Draw a line onto the picture; where it did so (H×W, not 0 = drawn)."""
    ink = _ink((picture.shape[0], picture.shape[1]), line, rng.uniform(-line.tilt, line.tilt))
    stroke = max(1, line.size // 16)
    layers: list[tuple[Picture, Color]] = [(ink, line.color)]
    if line.outline is not None:
        layers.insert(0, (_grown(ink, stroke), line.outline))
    if line.shadow:
        layers.insert(0, (_shadow(layers[0][0], offset=stroke), BLACK))
    for coverage, color in layers:
        _blend(picture, coverage, color)
    return functools.reduce(np.maximum, (coverage for coverage, _ in layers))


def _ink(shape: tuple[int, int], line: Line, angle: float) -> Picture:
    """The line's coverage of each pixel, 0 to 255 (H×W)."""
    font = _font(line.font)
    x, y = line.at
    _, top, width, height = cv2.getTextSize((0, 0), line.text, (0, y), font, line.size, line.weight)
    left = round(x - ALIGN[line.align] * width)
    if min(left, top) < 0 or left + width > shape[1] or top + height > shape[0]:
        raise ValueError(
            f"the line {line.text!r} at {line.at} is {width}×{height} pixels and does not fit on a "
            f"picture of {shape[1]}×{shape[0]}: move it or make it smaller"
        )
    layer = np.zeros(shape, np.uint8)
    cv2.putText(layer, line.text, (left, y), (255,), font, line.size, line.weight)
    if angle:
        turn = cv2.getRotationMatrix2D(line.at, angle, 1)
        layer = _uint8(cv2.warpAffine(layer, turn, (shape[1], shape[0])))
    return layer


def _shadow(coverage: Picture, offset: int) -> Picture:
    move = np.array([[1, 0, offset], [0, 1, offset]], np.float64)
    moved = cv2.warpAffine(coverage, move, (coverage.shape[1], coverage.shape[0]))
    soft = cv2.GaussianBlur(moved, (0, 0), 1 + offset / 3) * 0.7
    return np.where(soft < FAINTEST, 0, soft).astype(np.uint8)


def _blend(picture: Picture, coverage: Picture, color: Color) -> None:
    x, y, width, height = cv2.boundingRect(coverage)
    part = picture[y : y + height, x : x + width]
    opacity = coverage[y : y + height, x : x + width, None] / np.float32(255)
    part[:] = np.rint(part * (1 - opacity) + np.array(color, np.float32) * opacity)


def _add_to_mask(mask: Picture, touched: Picture, style: MaskStyle, *, tilted: bool) -> None:
    if style is MaskStyle.GLYPHS:
        mask[_grown(touched, GLYPH_GROWTH) > 0] = 255
        return
    # Both rectangles go through the middles of the outermost pixels.
    if tilted:
        center, size, angle = cv2.minAreaRect(cv2.findNonZero(touched))
    else:  # the smallest rectangle around level text can be askew too
        x, y, width, height = cv2.boundingRect(touched)
        center, size, angle = (
            (x + (width - 1) / 2, y + (height - 1) / 2),
            (width - 1, height - 1),
            0,
        )
    # A tilted corner is rounded by half a pixel, which must not cost the growth.
    growth = 2 * BOX_GROWTH + tilted
    corners = cv2.boxPoints((center, (size[0] + growth, size[1] + growth), angle))
    cv2.fillConvexPoly(mask, np.rint(corners).astype(np.int32), (255,))


def _grown(layer: Picture, radius: int) -> Picture:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return _uint8(cv2.dilate(layer, kernel))


def _uint8(layer: npt.NDArray[np.generic]) -> Picture:
    """For the type checker: OpenCV keeps the dtype, its annotations do not say so."""
    assert layer.dtype == np.uint8
    return layer  # type: ignore[return-value]


@functools.cache
def _font(name: str) -> cv2.FontFace:
    return cv2.FontFace(name)
