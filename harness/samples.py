"""The sample pictures of this repository: clean photographs of products."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from harness import ROOT

SAMPLES: Final = ROOT / "samples"

Picture = npt.NDArray[np.uint8]


class SampleMissing(Exception):
    """A sample picture is not where it should be; the message names it."""


def sample_files() -> list[Path]:
    """All of them, in the order of their names."""
    return sorted(SAMPLES.glob("*.jpg"))


def read_sample(path: Path) -> Picture:
    """A sample picture: uint8 H×W×3, BGR. Raises SampleMissing."""
    image = cv2.imread(str(path))
    if image is None:
        raise SampleMissing(f"{path} is missing or not a picture: restore it from the repository")
    return image.astype(np.uint8, copy=False)


def resized(picture: Picture, height: int, width: int) -> Picture:
    """A picture at another size, by area averaging."""
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
