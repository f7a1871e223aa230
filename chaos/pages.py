"""Pages of a catalogue. Page number `n` is the same in every process, so that each can check it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from harness.samples import read_sample, resized, sample_files

Picture = npt.NDArray[np.uint8]
Hole = npt.NDArray[np.bool_]

#: Corners of a line of text, [x, y] in pixels, as an OCR gives them.
Corners = list[list[int]]

#: Pixels: the least and the largest side of a page, and height of a line.
SIDES: Final = (128, 400)
LINE: Final = (12, 36)

#: A page has fewer lines than this; one without any is copied.
LINES: Final = 5


@dataclass(frozen=True, slots=True)
class Page:
    """A page: `image` is uint8 H×W×3 RGB, `hole` bool H×W, `boxes` its quadrilaterals."""

    name: str
    image: Picture
    hole: Hole
    boxes: list[Corners]

    @property
    def mask(self) -> Picture:
        """uint8 H×W: 255 in the holes."""
        return self.hole.view(np.uint8) * np.uint8(255)


def draw(number: int, seed: int) -> Page:
    """A lettered part of a photograph; some pages have a white band at the bottom."""
    rng = np.random.default_rng([seed, number])
    height, width = (int(side) for side in rng.integers(*SIDES, 2, endpoint=True))
    image = _part(rng, height, width)
    if rng.random() < 0.3:
        image[height * 2 // 3 :] = 255
    hole = np.zeros((height, width), np.bool_)
    boxes: list[Corners] = []
    for _ in range(rng.integers(LINES)):
        tall, wide = int(rng.integers(*LINE)), int(rng.integers(width // 4, width * 3 // 4))
        top, left = int(rng.integers(1, height - tall)), int(rng.integers(1, width - wide))
        bottom, right = top + tall - 1, left + wide - 1
        boxes.append([[left, top], [right, top], [right, bottom], [left, bottom]])
        line = image[top : bottom + 1, left : right + 1]
        tone = (255, 255, 255) if line.mean() < 128 else (0, 0, 0)
        cv2.putText(
            line,
            f"No. {number}",
            (2, tall * 3 // 4),
            cv2.FONT_HERSHEY_SIMPLEX,
            tall / 30,
            tone,
            1,
            cv2.LINE_AA,
        )
        # With its corners' pixels, and grown by one.
        hole[top - 1 : bottom + 2, left - 1 : right + 2] = True
    return Page(f"{number % 10}/{number:05}.png", image, hole, boxes)


def _part(rng: np.random.Generator, height: int, width: int) -> Picture:
    photographs = _photographs()
    photograph = photographs[rng.integers(len(photographs))]
    top = rng.integers(photograph.shape[0] - height + 1)
    left = rng.integers(photograph.shape[1] - width + 1)
    return photograph[top : top + height, left : left + width].copy()


@cache
def _photographs() -> list[Picture]:
    """RGB; each has room for the largest page."""
    scaled = []
    for picture in map(read_sample, sample_files()):
        height, width = picture.shape[:2]
        scale = 2 * SIDES[1] / min(height, width)
        smaller = resized(picture, round(height * scale), round(width * scale))
        scaled.append(np.ascontiguousarray(smaller[..., ::-1]))
    return scaled
