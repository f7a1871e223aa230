"""The patch discriminator of pix2pixHD (Wang et al., arXiv 1711.11585), which LaMa trains against.

Never needed for inference.
"""

from __future__ import annotations

from torch import Tensor, nn


class NLayerDiscriminator(nn.Module):
    """One logit for each overlapping patch; strided 4×4 convolutions, batch norm, leaky ReLU."""

    def __init__(self, input_nc: int = 3, ndf: int = 64, n_layers: int = 4) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width = input_nc
        for index in range(n_layers + 1):
            following = min(512, ndf << index)
            stride = 1 if index == n_layers else 2
            # A bias in front of a batch norm has no effect.
            convolution = nn.Conv2d(width, following, 4, stride, padding=2, bias=index == 0)
            norm = [nn.BatchNorm2d(following)] if index else []
            stages.append(nn.Sequential(convolution, *norm, nn.LeakyReLU(0.2)))
            width = following
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(width, 1, 4, padding=2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """B×3×H×W in [0, 1] to logits B×1×h×w (above 0: real) and the features of each stage."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return self.head(x), features
