"""Operations on the bytes of pictures before and after the network, on any device.

They do what NumPy and OpenCV do on the host, so that a picture crosses the bus as bytes, once in
each direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def masked(pictures: Tensor, masks: Tensor, threshold: int) -> Tensor:
    """The network's input: B×H×W×4 uint8, black in the hole, with the mask as the fourth channel.

    `pictures`: B×H×W×3 uint8; `masks`: B×H×W uint8, a value above `threshold` is a hole.
    """
    hole = (masks > threshold).unsqueeze(-1)
    return torch.cat([pictures.masked_fill(hole, 0), hole.to(torch.uint8) * 255], dim=-1)


def scaled(logits: Tensor) -> Tensor:
    """Logits of any shape to 0…255, uint8."""
    return torch.sigmoid(logits.float()).mul_(255).round_().to(torch.uint8)


def composite(logits: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures with their holes filled, B×H×W×3 uint8, and whether each is finite: B.

    `logits`: B×H×W×3; `pixels` are from `masked`. Outside the hole the picture's own pixels stay.
    """
    finite = torch.isfinite(logits).flatten(1).all(dim=1)
    return torch.where(pixels[..., 3:] > 0, scaled(logits), pixels[..., :3]), finite


def restored(picture: Tensor, padding: Sequence[int], original_size: Sequence[int]) -> Tensor:
    """A canvas without its padding, of `original_size`: H×W×3 uint8, maybe a view.

    `padding`: (top, right, bottom, left), which leaves something; `original_size`: (height, width).
    """
    top, right, bottom, left = padding
    cut = picture[top : len(picture) - bottom, left : picture.shape[1] - right]
    return resized(cut, (original_size[0], original_size[1]))


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """H×W×C uint8 to `size`, bilinearly: within one level of `cv2.resize` with INTER_LINEAR.

    The level comes from OpenCV, which rounds its weights to 11 bits.
    """
    if tuple(picture.shape[:2]) == size:
        return picture
    # H, W, C -> 1, C, H, W
    planes = picture.permute(2, 0, 1)[None].float()
    wanted = functional.interpolate(planes, size, mode="bilinear", align_corners=False)
    return wanted[0].permute(1, 2, 0).round_().to(torch.uint8)
