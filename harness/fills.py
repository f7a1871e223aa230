"""What the stub networks make of a picture: workers paint with it, and checks expect it."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

#: Pictures by whose name (image_id) the stub raises, or returns something without a shape.
EXPLODING: Final = "explode.jpg"
SHAPELESS: Final = "nameless.jpg"

#: A picture that kills every process whose network, stub or tiny, computes it.
POISON: Final = "kill.jpg"

GREY: Final = 128


def fill_grey(image: Picture, mask: Picture, threshold: int = 0) -> Picture:
    """What the stub makes of H×W×3 and H×W, uint8: holes are grey."""
    return np.where((mask > threshold)[..., None], np.uint8(GREY), image)


def fill_mean(image: Picture, mask: Picture) -> Picture:
    """What the tiny network makes of H×W×3 and H×W: holes get the mean of the known pixels."""
    hole = mask > 0
    mean = image[~hole].mean(axis=0) if not hole.all() else np.full(3, 128.0)
    filled = image.copy()
    filled[hole] = mean.astype(np.uint8)
    return filled
