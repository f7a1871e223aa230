"""Measures how close a fill is to the original, in the hole."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.metrics import structural_similarity

#: The highest PSNR in dB. A flawless fill has no finite PSNR, and flat grounds have nearly flawless
#: fills: without a bound a few white pictures would decide the mean.
CAP = 60.0

#: Pixels that the hole is grown by for SSIM, so that the seam counts.
SEAM = 8


def squared_error(filled: np.ndarray, original: np.ndarray, hole: np.ndarray) -> float:
    """Mean squared difference over the hole, of uint8 H×W×3 pictures scaled to [0, 1]."""
    difference = filled[hole].astype(np.float64) - original[hole].astype(np.float64)
    return float(np.mean(np.square(difference / 255)))


def decibels(error: float) -> float:
    """PSNR of a mean squared error, at most CAP."""
    return float(min(CAP, -10 * np.log10(max(error, 1e-12))))


def ssim(filled: np.ndarray, original: np.ndarray, hole: np.ndarray) -> float:
    """Mean of the SSIM map (7×7, per channel) over the hole dilated by SEAM pixels in each way."""
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        filled, original, channel_axis=2, data_range=255, full=True
    )
    side = 2 * SEAM + 1
    near = cv2.dilate(hole.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    return float(similarity[near].mean())
