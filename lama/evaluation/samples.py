"""The fixed pictures and holes that methods are compared on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import Generator

from lama.training.data.masks import HolePlan, glyphs, rasterise, strokes
from lama.training.data.pictures import read_picture
from lama.training.data.text import Slot, line_slots, paragraph_slots

Size = tuple[int, int]

KINDS = ("boxes", "glyphs", "strokes")

#: (height, width). The first is cropped, the others are letterboxed as in the pipeline.
SIZES: tuple[Size, ...] = ((512, 512), (1024, 1024), (864, 1504))

#: The least and the greatest share of the picture that text covers, as on product pages.
_LEAST, _MOST = 0.05, 0.13


@dataclass(frozen=True)
class Sample:
    name: str
    size: Size
    kind: str
    #: RGB uint8 H×W×3.
    picture: np.ndarray
    #: bool H×W: the hole.
    hole: np.ndarray
    #: bool H×W: the hole without its mirror images in the padding; what is measured.
    measured: np.ndarray


def samples(
    files: Sequence[Path], sizes: Sequence[Size], kinds: Sequence[str], seed: int
) -> Iterator[Sample]:
    """Every picture at every size with every kind of hole; the same for the same seed."""
    for path in files:
        picture = read_picture(path)
        if picture is None:
            continue
        for size in sizes:
            # Only the file's name decides, so that other files do not matter.
            key = [seed, *size, *path.name.encode()]
            content = _content(np.random.default_rng(key), picture, size)
            for kind in kinds:
                rng = np.random.default_rng([*key, KINDS.index(kind)])
                hole = make_hole(rng, content.shape[:2], kind)
                inside = np.zeros(size, bool)
                top, left = ((side - own) // 2 for side, own in zip(size, hole.shape, strict=True))
                inside[top : top + hole.shape[0], left : left + hole.shape[1]] = True
                mirrored = _letterbox(hole.astype(np.uint8), size) > 0
                yield Sample(
                    path.name, size, kind, _letterbox(content, size), mirrored, mirrored & inside
                )


def make_hole(rng: Generator, size: Size, kind: str) -> np.ndarray:
    """A hole, bool H×W. Boxes are text lines grown by 1; glyphs are letters in them, grown by 2."""
    if kind == "strokes":
        plan = strokes(rng, size)
    else:
        slots = _text(rng, size)
        if kind == "boxes":
            plan = HolePlan()
            for slot in slots:
                plan.add(slot.corners(), 1)
        else:
            plan = glyphs(rng, slots, size)
            plan.dilated = 2
    return rasterise([plan], size, torch.device("cpu"))[0, 0].numpy() > 0


def _text(rng: Generator, size: Size) -> list[Slot]:
    """Lines and paragraphs until enough of the picture is covered, at most a dozen lines."""
    slots: list[Slot] = []
    covered = 0.0
    while covered < _LEAST:
        for slot in (paragraph_slots if rng.random() < 0.5 else line_slots)(rng, size):
            share = slot.width * slot.height / (size[0] * size[1])
            if covered + share <= _MOST:
                slots.append(slot)
                covered += share
        if len(slots) >= 12:
            break
    return slots


def _content(rng: Generator, picture: np.ndarray, size: Size) -> np.ndarray:
    """A crop for 512×512; otherwise the whole picture, shrunk if it is larger than `size`."""
    height, width = picture.shape[:2]
    if size == SIZES[0] or size not in SIZES:
        high, wide = min(height, size[0]), min(width, size[1])
        top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        return picture[top : top + high, left : left + wide]
    scale = min(1.0, size[0] / height, size[1] / width)
    if scale == 1:
        return picture
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)


def _letterbox(array: np.ndarray, size: Size) -> np.ndarray:
    """The picture extended to `size` by reflection (101) on all four sides."""
    spare = [side - own for side, own in zip(size, array.shape, strict=False)]
    top, left = (length // 2 for length in spare)
    return np.ascontiguousarray(
        cv2.copyMakeBorder(
            array, top, spare[0] - top, left, spare[1] - left, cv2.BORDER_REFLECT_101
        )
    )
