"""Slots for lines of text, and the ink of random text in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

_LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%&!?.,:+-()"
_CJK = "的一是不了在人有我他这中大来上国产品加厚保暖尺码颜色新款时尚舒适质量包邮春夏秋冬男女"


@dataclass(frozen=True)
class Slot:
    """A rectangle, turned about its centre, that one line of text fills. Pixels, degrees."""

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0

    def corners(self) -> np.ndarray:
        """float32 4×2, (x, y) in order around the rectangle; pixel (0, 0) has its centre at 0."""
        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (self.width / 2, self.height / 2)
        turn = math.radians(self.angle)
        rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        corners: np.ndarray = (half @ rotation + (self.x, self.y)).astype(np.float32)
        return corners


def line_slots(rng: Generator, size: tuple[int, int]) -> list[Slot]:
    """One to four single lines anywhere in a picture of `size` (height, width)."""
    height, width = size
    slots = []
    for _ in range(rng.integers(1, 5)):
        line = _line_height(rng, size)
        length = min(line * rng.uniform(1.5, 16), rng.uniform(0.3, 1.1) * width)
        slots.append(Slot(rng.uniform(0, width), rng.uniform(0, height), length, line, _angle(rng)))
    return slots


def paragraph_slots(rng: Generator, size: tuple[int, int]) -> list[Slot]:
    """Two to six stacked lines, aligned left or centred, at the same angle."""
    height, width = size
    line = min(_line_height(rng, size), height / 6)
    step = line * rng.uniform(1.15, 1.9)
    lengths = rng.uniform(0.25, 0.8) * width * rng.uniform(0.6, 1.0, rng.integers(2, 7))
    centred = rng.random() < 0.5
    angle = _angle(rng)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height
    slots = []
    for index, length in enumerate(lengths):
        along = 0.0 if centred else (length - lengths.max()) / 2
        down = (index - (len(lengths) - 1) / 2) * step
        slots.append(
            Slot(x + along * cos - down * sin, y + along * sin + down * cos, length, line, angle)
        )
    return slots


def _line_height(rng: Generator, size: tuple[int, int]) -> float:
    """The height of a line in pixels, at any scale of the picture; most lines are small."""
    return float(np.exp(rng.uniform(math.log(8), math.log(max(12, min(64, min(size) / 3))))))


def _angle(rng: Generator) -> float:
    kind = rng.random()
    if kind < 0.65:
        return 0.0
    if kind < 0.9:
        return float(rng.normal(0, 6))
    return float(rng.choice([90, -90, rng.uniform(-60, 60)]))


def glyph_ink(rng: Generator, slots: list[Slot], size: tuple[int, int]) -> np.ndarray:
    """uint8 H×W, antialiased: random text that fills each slot from edge to edge."""
    canvas = np.zeros(size, np.uint8)
    bold = int(rng.choice([300, 400, 700]))
    chinese = rng.random() < 0.4
    for slot in slots:
        sprite = _sprite(rng, slot, bold, chinese)
        target = slot.corners()
        # The centres of the sprite's outermost pixels go to the ends of the slot.
        height, width = sprite.shape
        source = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5]])
        matrix = cv2.getAffineTransform(source.astype(np.float32), target[:3])
        _paste(canvas, sprite, matrix, target)
    return canvas


def _paste(canvas: np.ndarray, sprite: np.ndarray, matrix: np.ndarray, corners: np.ndarray) -> None:
    """Warps the sprite onto the part of the canvas that its corners span."""
    height, width = canvas.shape
    left, top = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, (width, height))
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 2, 0, (width, height))
    if left >= right or top >= bottom:
        return
    shifted = matrix.copy()
    shifted[:, 2] -= (left, top)
    ink = cv2.warpAffine(sprite, shifted, (int(right - left), int(bottom - top)))
    window = canvas[top:bottom, left:right]
    np.maximum(window, ink, out=window)


def _sprite(rng: Generator, slot: Slot, weight: int, chinese: bool) -> np.ndarray:
    """uint8 h×w: a string with roughly the slot's proportions, cropped to its ink."""
    alphabet = _CJK if chinese else _LATIN
    count = max(1, round(slot.width / slot.height * (1.0 if chinese else 1.7)))
    letters = [alphabet[i] for i in rng.integers(0, len(alphabet), min(count, 60))]
    for gap in rng.integers(2, 9, max(1, len(letters) // 6)).cumsum():
        if not chinese and 0 < gap < len(letters) - 1:
            letters[gap] = " "
    text = "".join(letters)
    points = int(np.clip(slot.height, 12, 72))
    font = cv2.FontFace("uni" if chinese else "sans")
    canvas = np.zeros((points * 2, points * (len(text) + 2)), np.uint8)
    cv2.putText(canvas, text, (points // 2, points * 3 // 2), 255, font, points, weight)
    rows, columns = np.flatnonzero(canvas.max(1) > 64), np.flatnonzero(canvas.max(0) > 64)
    if not len(rows):
        return np.full((4, 4), 255, np.uint8)
    return canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
