"""Product pages as the worker gets them: drawn, lettered, compressed, letterboxed, with masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from core.client import Prepared, prepare
from core.keys import Kind
from core.pictures.boxes import mask_of_boxes
from harness.samples import SAMPLES
from lama.training.data.pages import product_page, table
from lama.training.data.pictures import Pictures, picture_files
from lama.training.data.text import Slot, glyph_ink

#: Pixels: the width of a page, and the least and the largest height.
WIDTH, LOWEST, HIGHEST = 860, 250, 1300

MOST_LINES = 12


@dataclass(frozen=True)
class Layout:
    """A page on its canvas. `clean` is what is under the text, RGB uint8 like `prepared.image`."""

    kind: Kind
    prepared: Prepared
    clean: np.ndarray

    @property
    def measured(self) -> np.ndarray:
        """bool H×W: the holes of the page itself, without their mirror images in the padding."""
        top, right, bottom, left = self.prepared.padding
        inside = np.zeros(self.prepared.mask.shape, bool)
        height, width = self.prepared.mask.shape[:2]
        inside[top : height - bottom, left : width - right] = True
        return inside & (self.prepared.mask > 0)


def layouts(kind: Kind, count: int) -> list[Layout]:
    """Pages of all heights, each with text; always the same ones."""
    photographs = Pictures(picture_files(SAMPLES))
    made = []
    for number in range(count):
        rng = np.random.default_rng([0, number])
        height = LOWEST + (HIGHEST - LOWEST) * number // max(1, count - 1)
        clean, slots = _page(rng, (height, WIDTH), photographs)
        lettered, mask = _letter(rng, clean, slots)
        # The worker's own preparation takes BGR.
        sent = prepare(np.ascontiguousarray(lettered[..., ::-1]), mask, kind)
        wanted = prepare(np.ascontiguousarray(clean[..., ::-1]), mask, kind)
        made.append(Layout(kind, sent, wanted.image))
    return made


def strip(height: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pages under each other, WIDTH wide: RGB with text, mask of 0 and 255, RGB without text."""
    photographs = Pictures(picture_files(SAMPLES))
    rng = np.random.default_rng(seed)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for top in range(0, height, HIGHEST):
        clean, slots = _page(rng, (min(HIGHEST, height - top), WIDTH), photographs)
        parts.append((*_letter(rng, clean, slots), clean))
    lettered, mask, clean = (np.vstack(part) for part in zip(*parts, strict=True))
    return lettered, mask, clean


def _page(
    rng: Generator, size: tuple[int, int], photographs: Pictures
) -> tuple[np.ndarray, list[Slot]]:
    """RGB without text, and where text belongs: on one to twelve lines."""
    make = table if rng.random() < 0.2 else product_page
    while True:
        picture, slots = make(rng, size, photographs.photograph)
        inside = [
            slot
            for slot in slots
            if 0 < slot.x < size[1] and 0 < slot.y < size[0] and slot.height <= 60
        ]
        if inside:
            order = rng.permutation(len(inside))[:MOST_LINES]
            return picture, [inside[index] for index in order]


def _letter(rng: Generator, clean: np.ndarray, slots: list[Slot]) -> tuple[np.ndarray, np.ndarray]:
    """The page with text, as JPEG and a bilateral filter leave it; and the mask of its lines."""
    size = clean.shape[:2]
    ink = glyph_ink(rng, slots, size)[..., None] / np.float32(255)
    tone = np.full(3, 20 if clean.mean() > 110 else 235, np.float32)
    lettered = np.rint(clean * (1 - ink) + tone * ink).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", lettered, [cv2.IMWRITE_JPEG_QUALITY, 92])
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    hole, _ = mask_of_boxes([slot.corners() for slot in slots], size)
    return cv2.bilateralFilter(decoded, 5, 50, 50), hole.astype(np.uint8) * np.uint8(255)
