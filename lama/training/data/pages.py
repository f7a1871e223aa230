"""Draws pages: comic panels, ruled tables and product pages, with the places for text.

Each function returns RGB uint8 H×W×3 without the text, and the slots that text would fill: the
network learns what is under text, so no text is ever in a hole. `photograph` gives an H×W×3
picture of a requested size.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

from lama.training.data.drawn import Size, colour, gradient, ground, near, shapes
from lama.training.data.text import Slot, glyph_ink

Photograph = Callable[[Generator, Size], np.ndarray]
Page = tuple[np.ndarray, list[Slot]]


def panels(rng: Generator, size: Size, photograph: Photograph) -> Page:
    """A comic page: gutters, framed panels, speech bubbles with text in them."""
    picture = np.full((*size, 3), 255 if rng.random() < 0.8 else 0, np.uint8)
    slots = []
    gutter, frame = int(rng.integers(2, 10)), int(rng.integers(1, 5))
    for top, bottom, left, right in _cells(rng, size, int(rng.integers(2, 4))):
        cell = picture[top + gutter : bottom - gutter, left + gutter : right - gutter]
        high, wide = cell.shape[:2]
        if high < 16 or wide < 16:
            continue
        cell[:] = _filling(rng, (high, wide), photograph)
        if rng.random() < 0.6:
            # The bubble: an ellipse, white, with an outline.
            centre = (int(wide * rng.uniform(0.25, 0.75)), int(high * rng.uniform(0.25, 0.75)))
            axes = (int(wide * rng.uniform(0.2, 0.45)), int(high * rng.uniform(0.15, 0.35)))
            patch = np.ascontiguousarray(cell)
            cv2.ellipse(patch, centre, axes, 0, 0, 360, (255, 255, 255), -1, cv2.LINE_AA)
            outline = int(rng.integers(1, 3))
            cv2.ellipse(patch, centre, axes, 0, 0, 360, (0, 0, 0), outline, cv2.LINE_AA)
            cell[:] = patch
            x, y = left + gutter + centre[0], top + gutter + centre[1]
            slots += _block(rng, x, y, axes[0] * 1.5, axes[1] * 1.3)
        for edge in (cell[:frame], cell[-frame:], cell[:, :frame], cell[:, -frame:]):
            edge[:] = 0
    return picture, slots


def table(rng: Generator, size: Size, photograph: Photograph) -> Page:
    """Ruled rows and columns, a shaded head or alternate rows, one line of text in each cell."""
    paper = colour(rng)
    picture = gradient(rng, size) if rng.random() < 0.15 else _plain(paper, size)
    rule = near(rng, paper, 60) if rng.random() < 0.4 else np.full(3, rng.uniform(0, 200))
    row, column = rng.uniform(14, 50), rng.uniform(30, 140)
    rows = np.arange(rng.uniform(0, row), size[0], row).astype(int)
    columns = np.arange(rng.uniform(0, column), size[1], column).astype(int)
    thick, vertical = int(rng.integers(1, 4)), rng.random() < 0.7
    shade = near(rng, paper, 40).astype(np.uint8)
    if rng.random() < 0.5:
        for top in rows[:: int(rng.integers(2, 9))]:
            picture[top : top + int(row)] = shade
    for top in rows:
        picture[top : top + thick] = rule
    for left in columns if vertical else []:
        picture[:, left : left + thick] = rule
    height = row * rng.uniform(0.35, 0.75)
    slots = [
        Slot(left + column / 2, top + row / 2, column * rng.uniform(0.3, 0.9), height)
        for top in rows
        for left in columns
        if rng.random() < 0.8
    ]
    return picture, slots


def product_page(rng: Generator, size: Size, photograph: Photograph) -> Page:
    """Stacked banners: flat ones with centred text, photographs with text over them."""
    picture = _plain(colour(rng), size)
    slots: list[Slot] = []
    top = -int(rng.integers(0, 40))
    while top < size[0]:
        high = int(rng.uniform(0.2, 0.8) * max(64, min(size)))
        start, end = max(top, 0), min(top + high, size[0])
        if end - start >= 8:
            area = (end - start, size[1])
            kind = rng.random()
            if kind < 0.45:
                picture[start:end] = photograph(rng, area)
            elif kind < 0.6:
                picture[start:end] = ground(rng, area)
            elif kind < 0.9:
                picture[start:end] = colour(rng).astype(np.uint8)
            if kind > 0.5 and rng.random() < 0.4:
                _inset(rng, picture[start:end], photograph)
            if rng.random() < 0.85:
                x = size[1] * rng.choice([0.5, 0.5, rng.uniform(0.3, 0.7)])
                y = start + (end - start) * rng.uniform(0.25, 0.75)
                wide = size[1] * rng.uniform(0.3, 1.0)
                slots += _block(rng, x, y, wide, (end - start) * rng.uniform(0.2, 0.8))
        top += high
    return picture, slots


def page(rng: Generator, size: Size, photograph: Photograph) -> Page:
    """A random drawn picture. Part of its text is written, and has no slots in the result."""
    kind = rng.random()
    if kind < 0.2:
        return ground(rng, size), []
    if kind < 0.35:
        return shapes(rng, size), []
    make = panels if kind < 0.5 else table if kind < 0.7 else product_page
    picture, slots = make(rng, size, photograph)
    shown = [slot for slot in slots if rng.random() < 0.25]
    if shown:
        ink = glyph_ink(rng, shown, size)[..., None] / 255
        picture = (picture * (1 - ink) + colour(rng) * ink + 0.5).astype(np.uint8)
    return picture, [slot for slot in slots if slot not in shown]


def _plain(tone: np.ndarray, size: Size) -> np.ndarray:
    return np.broadcast_to(tone.astype(np.uint8), (*size, 3)).copy()


def _filling(rng: Generator, size: Size, photograph: Photograph) -> np.ndarray:
    kind = rng.random()
    if kind < 0.25:
        return photograph(rng, size)
    return shapes(rng, size) if kind < 0.6 else ground(rng, size)


def _inset(rng: Generator, banner: np.ndarray, photograph: Photograph) -> None:
    """A photograph or a coloured card within a banner, perhaps with a border."""
    high, wide = (int(side * rng.uniform(0.4, 0.9)) for side in banner.shape[:2])
    if min(high, wide) < 8:
        return
    top = int(rng.integers(0, banner.shape[0] - high + 1))
    left = int(rng.integers(0, banner.shape[1] - wide + 1))
    card = banner[top : top + high, left : left + wide]
    card[:] = photograph(rng, (high, wide)) if rng.random() < 0.6 else colour(rng).astype(np.uint8)
    border = int(rng.integers(0, 4))
    if border:
        tone = colour(rng).astype(np.uint8)
        for edge in (card[:border], card[-border:], card[:, :border], card[:, -border:]):
            edge[:] = tone


def _block(rng: Generator, x: float, y: float, width: float, height: float) -> list[Slot]:
    """Centred lines that fill a block of this size around (x, y); the first may be a headline."""
    line = float(np.clip(rng.uniform(9, 40), 6, max(6, height)))
    step = line * rng.uniform(1.2, 1.8)
    count = int(np.clip(height / step, 1, 5))
    return [
        Slot(
            x,
            y + (index - (count - 1) / 2) * step,
            max(line, width * rng.uniform(0.5, 1.0)),
            line * (1.0 if index else rng.uniform(0.9, 1.3)),
        )
        for index in range(count)
    ]


def _cells(rng: Generator, size: Size, depth: int) -> list[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of the parts of a picture that is cut in two repeatedly."""
    cells = [(0, size[0], 0, size[1])]
    for _ in range(depth):
        cut = []
        for top, bottom, left, right in cells:
            share = rng.uniform(0.3, 0.7)
            if bottom - top > right - left:
                middle = int(top + (bottom - top) * share)
                cut += [(top, middle, left, right), (middle, bottom, left, right)]
            else:
                middle = int(left + (right - left) * share)
                cut += [(top, bottom, left, middle), (top, bottom, middle, right)]
        cells = cut
    return cells
