"""A picture and its hole at several scales, each half as large as the one before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from kornia.geometry.transform import pyrdown
from torch import Tensor

from lama.regions.boxes import Box

#: A pixel of a smaller scale belongs to a hole if a larger share of it comes from the hole. Any
#: contribution of a hole through the filter is larger.
_TRACE = 1e-6


@dataclass(frozen=True, slots=True)
class Scale:
    """One scale: float32 tensors on one device, in which 1 is a hole.

    `image` is 1×3×h×w in [0, 1], with any values in the holes; `hole` has all holes, 1×1×h×w; `own`
    the hole that is refined.
    """

    image: Tensor
    hole: Tensor
    own: Tensor

    def cut(self, part: Box) -> Scale:
        """The scale of a part, as views."""
        rows, columns = part.slices
        return Scale(*(one[:, :, rows, columns] for one in (self.image, self.hole, self.own)))

    def halved(self) -> Scale:
        """The next smaller scale; its holes contain every pixel that a hole contributes to."""
        hole, own = ((smaller(one) > _TRACE).float() for one in (self.hole, self.own))
        return Scale(smaller(self.image), hole, own)


def smaller(image: Tensor) -> Tensor:
    """B×C×h×w with even sides, blurred by a Gaussian of 5×5 and halved."""
    halved: Tensor = pyrdown(image)
    return halved


def pyramid(
    picture: np.ndarray, hole: np.ndarray, own: np.ndarray, halvings: int, device: torch.device
) -> list[Scale]:
    """`halvings` + 1 scales, the largest first.

    `picture`: uint8 H×W×3, `hole` and `own`: bool H×W. H and W are multiples of 2**halvings.
    """
    # H, W, 3 -> 1, 3, H, W
    image = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
    holes = [torch.from_numpy(one).to(device)[None, None].float() for one in (hole, own)]
    scales = [Scale(image, *holes)]
    for _ in range(halvings):
        scales.append(scales[-1].halved())
    return scales


def composite(scale: Scale, part: Box, predicted: Tensor) -> Tensor:
    """The scale's image, 1×3×h×w, with the prediction for a part of it in its own hole."""
    rows, columns = part.slices
    result = scale.image.clone()
    own = scale.own[:, :, rows, columns] > 0
    result[:, :, rows, columns] = torch.where(own, predicted, result[:, :, rows, columns])
    return result


def as_pictures(images: Tensor) -> list[np.ndarray]:
    """B×3×h×w in [0, 1] to uint8 h×w×3."""
    pixels = images.mul(255).round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())
