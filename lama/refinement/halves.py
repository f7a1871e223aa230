"""The generator in two halves: the front makes the features to optimise, the rear decodes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lama.regions.boxes import Box
from lama.saicinpainting.training.modules.ffc import FFCResnetBlock, FFCResNetGenerator


class Halves:
    """The generator's own layers, unchanged, as two halves.

    For the backward pass, layers of the rear keep only their inputs and are computed again: that
    takes a third more time and a small part of the memory.
    """

    def __init__(self, generator: FFCResNetGenerator, rear_blocks: int) -> None:
        """The rear begins with the last `rear_blocks` residual blocks, or all of them."""
        layers = list(generator.model)
        blocks = [i for i, layer in enumerate(layers) if isinstance(layer, FFCResnetBlock)]
        first = blocks[max(0, len(blocks) - rear_blocks)] if rear_blocks else blocks[-1] + 1
        self._front = layers[:first]
        self._blocks = layers[first : blocks[-1] + 1]
        self._join = layers[blocks[-1] + 1]
        self._decoder = _stages(layers[blocks[-1] + 2 :])
        #: Pixels of the picture per pixel of the features, along a side.
        self.stride: int = 2**generator.config.n_downsampling
        #: The number that sides of pictures are multiples of.
        self.unit = generator.config.unit

    @torch.no_grad()
    def front(self, image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """1×3×h×w and 1×1×h×w to local and global features, 1×C×h/stride×w/stride, float32."""
        x = torch.cat([image * (1 - hole), hole], dim=1)
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        for layer in self._front:
            x = layer(x)
        local, wide = x
        return local.float(), wide.float()

    def rear(self, features: tuple[Tensor, Tensor], part: Box) -> Tensor:
        """The part of the picture that the features decode to: 1×3×h×w in [0, 1], float32.

        The sides of `part` are multiples of `stride`. Beyond its edges the decoder sees a
        reflection, even where the picture continues.
        """
        x = features
        for block in self._blocks:
            x = _run(block, x)
        joined = self._join(x)
        rows, columns = (
            slice(side.start // self.stride, side.stop // self.stride) for side in part.slices
        )
        joined = joined[:, :, rows, columns]
        for stage in self._decoder:
            joined = _run(stage, joined)
        out: Tensor = joined.float()
        return out


def _run(layer: nn.Module, x: Any) -> Any:
    return checkpoint(layer, x, use_reentrant=False) if torch.is_grad_enabled() else layer(x)


def _stages(layers: list[nn.Module]) -> list[nn.Module]:
    """Each upsampling with its norm and ReLU, then the remaining layers."""
    stages = []
    while layers and isinstance(layers[0], nn.ConvTranspose2d):
        stages.append(nn.Sequential(*layers[:3]))
        layers = layers[3:]
    return [*stages, nn.Sequential(*layers)]
