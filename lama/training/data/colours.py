"""Random changes of a batch's colours, on the device.

Without random tints a network that has seen few pictures fills with grey, the average hue of its
folder. With them it must take the colour from the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from kornia.filters import bilateral_blur
from numpy.random import Generator
from torch import Tensor

#: RGB to luma and two differences of colour, and back (ITU-R BT.601).
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
_TO_RGB = np.linalg.inv(_TO_YCC)


@dataclass(frozen=True)
class Tint:
    """x -> (matrix · x + shift) ** gamma, clipped to [0, 1]."""

    matrix: np.ndarray
    shift: np.ndarray
    gamma: float

    @staticmethod
    def none() -> Tint:
        return Tint(np.eye(3), np.zeros(3), 1.0)


def random_tint(rng: Generator) -> Tint:
    """A random tint: none in a third of cases, else of hue, saturation, light and contrast."""
    if rng.random() < 0.33:
        return Tint.none()
    turn = rng.uniform(-np.pi, np.pi) if rng.random() < 0.6 else rng.normal(0, 0.15)
    saturation = rng.choice([rng.uniform(0, 1), rng.uniform(1, 1.6)])
    cos, sin = np.cos(turn) * saturation, np.sin(turn) * saturation
    hue = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    gains = np.diag(rng.uniform(0.6, 1.1, 3)) if rng.random() < 0.5 else np.eye(3)
    contrast = rng.uniform(0.5, 1.15)
    matrix = contrast * gains @ _TO_RGB @ hue @ _TO_YCC
    shift = rng.uniform(0, max(0.0, 1 - contrast)) + rng.uniform(-0.06, 0.06, 3)
    if rng.random() < 0.1:
        matrix, shift = -matrix, 1 - shift
    return Tint(matrix, shift, float(np.exp(rng.normal(0, 0.25))))


def apply_tints(images: Tensor, tints: list[Tint]) -> Tensor:
    """Applies a tint to each picture: B×3×H×W in [0, 1]."""
    device = images.device
    matrices = torch.from_numpy(np.stack([tint.matrix for tint in tints])).float().to(device)
    shifts = torch.from_numpy(np.stack([tint.shift for tint in tints])).float().to(device)
    gammas = torch.tensor([tint.gamma for tint in tints], device=device)
    # B, out, in · B, in, H·W -> B, out, H·W
    mixed = torch.baddbmm(shifts[:, :, None], matrices, images.flatten(2)).view_as(images)
    return mixed.clamp(0, 1).pow(gammas[:, None, None, None])


def smooth(images: Tensor) -> Tensor:
    """The pipeline's bilateral filter: flattens noise, keeps edges. B×3×H×W in [0, 1]."""
    # A few pictures at a time, as the filter makes 25 copies of each.
    parts = [bilateral_blur(some, (5, 5), 0.08, (1.5, 1.5)) for some in torch.split(images, 4)]
    return torch.cat(parts).clamp(0, 1)
