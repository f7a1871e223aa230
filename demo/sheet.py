"""The contact sheet: a row per scene with the clean picture, the text, the mask and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from demo.lettering import Picture

COLUMNS = ("clean", "before: with text", "mask", "after: erased")
CELL = 400  # the longest side of a thumbnail, in pixels
GAP = 12
HEADER, LABEL = 44, 30
PAPER, INK, FAINT = 250, (40, 40, 40), (110, 110, 110)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the sheet: its label and four pictures (H×W×3 BGR), None where there is none."""

    label: str
    pictures: tuple[Picture | None, Picture | None, Picture | None, Picture | None]


def contact_sheet(rows: Sequence[Row]) -> Picture:
    """All rows below each other as one picture (H×W×3 BGR)."""
    return np.vstack([_header(), *(_draw(row) for row in rows)])


def _header() -> Picture:
    strip = _paper(HEADER)
    for column, title in enumerate(COLUMNS):
        _write(strip, title, (_left(column), 31), 22, 700)
    return strip


def _draw(row: Row) -> Picture:
    thumbnails = [None if picture is None else _thumbnail(picture) for picture in row.pictures]
    height = max((one.shape[0] for one in thumbnails if one is not None), default=CELL)
    strip = _paper(LABEL + height + GAP)
    _write(strip, row.label, (GAP, 20), 18, 500)
    for column, thumbnail in enumerate(thumbnails):
        if thumbnail is None:
            _write(strip, "none", (_left(column), LABEL + 24), 18, 400)
            continue
        high, wide = thumbnail.shape[:2]
        left = _left(column)
        strip[LABEL : LABEL + high, left : left + wide] = thumbnail
        cv2.rectangle(strip, (left - 1, LABEL - 1), (left + wide, LABEL + high), FAINT, 1)
    return strip


def _thumbnail(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    scale = min(CELL / height, CELL / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)


def _paper(height: int) -> Picture:
    return np.full((height, _left(len(COLUMNS)), 3), PAPER, np.uint8)


def _left(column: int) -> int:
    return GAP + column * (CELL + GAP)


def _write(strip: Picture, text: str, at: tuple[int, int], size: int, weight: int) -> None:
    cv2.putText(strip, text, at, INK, cv2.FontFace("sans"), size, weight)
