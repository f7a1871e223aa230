"""A folder of pictures: decoded once where memory allows, cropped at many scales."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

logger = logging.getLogger(__name__)

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}

#: Longer sides are shrunk to this when read: finer detail than a text hole needs.
LARGEST_SIDE = 1536

#: Bytes of decoded pictures that are kept; beyond, a picture is decoded at each use.
_KEPT = 4 << 30


def picture_files(folder: str | os.PathLike[str]) -> list[Path]:
    """All pictures below a folder, in order of their names. ValueError if there are none."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; a folder of pictures is needed")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(f"{root}: no pictures ({', '.join(sorted(_SUFFIXES))}) in there")
    return files


def read_picture(path: Path) -> np.ndarray | None:
    """RGB uint8 H×W×3, its longer side at most LARGEST_SIDE; None for what is no picture."""
    data = np.fromfile(path, np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if decoded is None:
        return None
    scale = LARGEST_SIDE / max(decoded.shape[:2])
    if scale < 1:
        decoded = cv2.resize(decoded, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class Crops:
    """What crops of pictures are like."""

    #: Sides of a crop over those of what it is scaled to, at least and at most: below 1 it is
    #: enlarged. A picture as it came is softer than one that was shrunk, and is filled as it is.
    scales: tuple[float, float] = (0.35, 1.6)
    #: Share of crops that have the most detail of three.
    busiest: float = 0.25
    #: Share of crops that stand at an angle of up to an eighth of a turn.
    turned: float = 0.0
    #: How many times as long one side may become as the other was.
    stretched: float = 1.0


class Pictures:
    """Gives crops; the same generator state gives the same crop."""

    def __init__(self, files: list[Path], crops: Crops = Crops(), kept: int = _KEPT) -> None:
        """Up to `kept` bytes of decoded pictures are kept."""
        self._files = files
        self._crops = crops
        self._kept = kept
        self._decoded: dict[Path, np.ndarray] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._files)

    def share(self, count: int) -> Pictures:
        """The same pictures, none of them decoded yet, for one of `count` processes."""
        return Pictures(self._files, self._crops, self._kept // count)

    def picture(self, index: int) -> np.ndarray:
        path = self._files[index]
        if path in self._decoded:
            return self._decoded[path]
        decoded = read_picture(path)
        if decoded is None:
            logger.warning("%s can't be read as a picture: grey in its place", path)
            decoded = np.full((64, 64, 3), 128, np.uint8)
        if self._bytes + decoded.nbytes <= self._kept:
            self._bytes += decoded.nbytes
            self._decoded[path] = decoded
        return decoded

    def crop(self, rng: Generator, size: tuple[int, int]) -> np.ndarray:
        """uint8 h×w×3 to be scaled to `size` by whoever needs it: of its proportions, or stretched.

        Its sides are those of `size` times one of the scales, as far as the picture reaches. Of
        three places, the one with most detail may be taken: shops' pictures are mostly white.
        """
        picture = self.picture(int(rng.integers(len(self._files))))
        scale = float(np.exp(rng.uniform(*np.log(self._crops.scales))))
        stretch = angle = 0.0
        if self._crops.stretched > 1:
            stretch = rng.uniform(-0.5, 0.5) * np.log(self._crops.stretched)
        if self._crops.turned and rng.random() < self._crops.turned:
            angle = rng.uniform(-np.pi / 4, np.pi / 4)  # quarter turns are the batch's
        high, wide = size[0] * scale * np.exp(stretch), size[1] * scale * np.exp(-stretch)
        sin, cos = abs(np.sin(angle)), np.cos(angle)
        # The upright window around it.
        tall, broad = high * cos + wide * sin, high * sin + wide * cos
        fit = min(1.0, picture.shape[0] / tall, picture.shape[1] / broad)
        tall, broad = (max(1, round(side * fit)) for side in (tall, broad))
        places = [
            (
                int(rng.integers(picture.shape[0] - tall + 1)),
                int(rng.integers(picture.shape[1] - broad + 1)),
            )
            for _ in range(3)
        ]
        windows = [picture[top : top + tall, left : left + broad] for top, left in places]
        window = windows[0]
        if rng.random() < self._crops.busiest:
            window = max(windows, key=lambda one: float(one[::8, ::8].std()))
        if not angle:
            return window
        return _turned(window, angle, (max(1, round(high * fit)), max(1, round(wide * fit))))

    def photograph(self, rng: Generator, size: tuple[int, int]) -> np.ndarray:
        """A crop that has `size`."""
        crop = self.crop(rng, size)
        enlarged = crop.shape[0] < size[0]
        how = cv2.INTER_CUBIC if enlarged else cv2.INTER_AREA
        return cv2.resize(crop, size[::-1], interpolation=how)


def _turned(window: np.ndarray, angle: float, size: tuple[int, int]) -> np.ndarray:
    """The rectangle of `size` in the middle of a picture, that stands at `angle` (radians)."""
    sin, cos = np.sin(angle), np.cos(angle)
    middle = np.array([window.shape[1] - 1, window.shape[0] - 1]) / 2
    # x, y of the rectangle to x, y of the window
    turn = np.array([[cos, -sin], [sin, cos]])
    shift = middle - turn @ (np.array([size[1] - 1, size[0] - 1]) / 2)
    return cv2.warpAffine(
        window, np.column_stack([turn, shift]), size[::-1],
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
