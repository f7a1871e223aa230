"""A picture and its hole at several scales, each half as large as the one before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from kornia.geometry.transform import pyrdown
from torch import Tensor

from lama.regions.boxes import Box

#: A pixel of a smaller scale is a hole's if more than that of it comes from the hole. All that a
#: filter mixes in of a hole is more.
_TRACE = 1e-6


@dataclass(frozen=True, slots=True)
class Scale:
    """All float32 on one device; 1 is a hole.

    `image` is 1×3×h×w in [0, 1], whatever is in the holes; `hole` all holes, 1×1×h×w; `own` the one
    that is refined.
    """

    image: Tensor
    hole: Tensor
    own: Tensor

    def cut(self, part: Box) -> Scale:
        """A view of a part."""
        rows, columns = part.slices
        return Scale(*(one[:, :, rows, columns] for one in (self.image, self.hole, self.own)))

    def halved(self) -> Scale:
        """The next smaller scale; its holes have all pixels that a hole has a part in."""
        hole, own = ((smaller(one) > _TRACE).float() for one in (self.hole, self.own))
        return Scale(smaller(self.image), hole, own)


def smaller(image: Tensor) -> Tensor:
    """B×C×h×w, even sides, blurred by a Gaussian of 5×5 and halved."""
    halved: Tensor = pyrdown(image)
    return halved


def pyramid(
    picture: np.ndarray, hole: np.ndarray, own: np.ndarray, halvings: int, device: torch.device
) -> list[Scale]:
    """The largest first, `halvings` + 1 of them.

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
    """The scale's image with what was predicted for a part of it in its own hole: 1×3×h×w."""
    rows, columns = part.slices
    result = scale.image.clone()
    own = scale.own[:, :, rows, columns] > 0
    result[:, :, rows, columns] = torch.where(own, predicted, result[:, :, rows, columns])
    return result


def as_pictures(images: Tensor) -> list[np.ndarray]:
    """B×3×h×w in [0, 1] to uint8 h×w×3."""
    pixels = images.mul(255).round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())
