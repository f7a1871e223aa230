"""How close a result is to the clean picture, and whether it left the rest alone.

Pictures are H×W×3 uint8, masks H×W uint8 where any value above 0 is a hole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from demo.lettering import Picture
from demo.scenes import Scene

Hole = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Measurements:
    """The numbers of one scene.

    PSNR (dB) and SSIM compare with the clean picture and count the hole's pixels only; `text_…`
    are those of the picture that still has the text. A PSNR is infinite where nothing differs.
    """

    hole_percent: float
    text_psnr: float
    psnr: float
    text_ssim: float
    ssim: float
    rest_identical: bool


def measure(scene: Scene, after: Picture) -> Measurements:
    """Compare the result for a scene with its clean picture; raises ValueError on a wrong size."""
    if after.shape != scene.clean.shape:
        raise ValueError(
            f"the result for {scene.name} has shape {after.shape}, not {scene.clean.shape}"
        )
    hole = scene.mask > 0
    return Measurements(
        hole_percent=100 * float(hole.mean()),
        text_psnr=psnr(scene.clean, scene.before, hole),
        psnr=psnr(scene.clean, after, hole),
        text_ssim=ssim(scene.clean, scene.before, hole),
        ssim=ssim(scene.clean, after, hole),
        rest_identical=bool(np.array_equal(after[~hole], scene.before[~hole])),
    )


def psnr(expected: Picture, actual: Picture, hole: Hole) -> float:
    """Peak signal-to-noise ratio over the hole in dB; infinite if nothing differs there."""
    difference = expected[hole].astype(np.float64) - actual[hole]
    error = float(np.mean(difference**2)) if difference.size else 0.0
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(expected: Picture, actual: Picture, hole: Hole) -> float:
    """The map of structural similarity (7×7 windows, mean of the channels) averaged over the hole.

    A window at the hole's edge also sees pixels outside it.
    """
    if not hole.any():
        return 1.0
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        expected, actual, channel_axis=2, full=True
    )
    return float(similarity[hole].mean())
