"""The pictures of a folder: decoded once if memory allows, and cropped at many scales."""

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

#: Longer sides are shrunk to this when a picture is read; a hole of text needs no finer detail.
LARGEST_SIDE = 1536

#: Bytes of decoded pictures that are kept; the others are decoded at each use.
_KEPT = 4 << 30


def picture_files(folder: str | os.PathLike[str]) -> list[Path]:
    """All pictures below a folder, sorted by name. Raises ValueError if there are none."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; a folder of pictures is needed")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(f"{root}: no pictures ({', '.join(sorted(_SUFFIXES))}) in there")
    return files


def read_picture(path: Path) -> np.ndarray | None:
    """RGB uint8 H×W×3 with sides of at most LARGEST_SIDE; None for a file that is no picture."""
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
    """The properties of crops."""

    #: The least and the greatest ratio of a crop's sides to the sides that it is scaled to; below 1
    #: it is enlarged. In use pictures are not shrunk, and so are softer than shrunk crops.
    scales: tuple[float, float] = (0.35, 1.6)
    #: Share of crops that are the most detailed of three candidates.
    busiest: float = 0.25
    #: Share of crops that are rotated by up to an eighth of a turn.
    turned: float = 0.0
    #: The most that one side may be stretched relative to the other.
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
        """The same pictures, not decoded yet, for one of `count` processes."""
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
        """A crop, uint8 h×w×3, that the caller scales to `size`; it may be stretched by that.

        Its sides are those of `size` times a random scale, as far as the picture reaches. It may be
        the most detailed of three candidates, as pictures of shops are mostly white.
        """
        picture = self.picture(int(rng.integers(len(self._files))))
        scale = float(np.exp(rng.uniform(*np.log(self._crops.scales))))
        stretch = angle = 0.0
        if self._crops.stretched > 1:
            stretch = rng.uniform(-0.5, 0.5) * np.log(self._crops.stretched)
        if self._crops.turned and rng.random() < self._crops.turned:
            angle = rng.uniform(-np.pi / 4, np.pi / 4)  # a batch has quarter turns already
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
        """The crop, scaled to `size`."""
        crop = self.crop(rng, size)
        enlarged = crop.shape[0] < size[0]
        how = cv2.INTER_CUBIC if enlarged else cv2.INTER_AREA
        return cv2.resize(crop, size[::-1], interpolation=how)


def _turned(window: np.ndarray, angle: float, size: tuple[int, int]) -> np.ndarray:
    """The rectangle of `size` in the middle of a picture, rotated by `angle` (radians)."""
    sin, cos = np.sin(angle), np.cos(angle)
    middle = np.array([window.shape[1] - 1, window.shape[0] - 1]) / 2
    # x, y of the rectangle to x, y of the window
    turn = np.array([[cos, -sin], [sin, cos]])
    shift = middle - turn @ (np.array([size[1] - 1, size[0] - 1]) / 2)
    return cv2.warpAffine(
        window,
        np.column_stack([turn, shift]),
        size[::-1],
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
