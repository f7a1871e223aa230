"""The LaMa generator: a ResNet of fast Fourier convolutions.

Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier Convolutions",
arXiv 2109.07161, and Chi, Jiang, Mu, "Fast Fourier Convolution", NeurIPS 2020.
Module and parameter names are those of the published checkpoints.

A feature map is a pair (local, global): the channels for ordinary convolutions, and those for the
Fourier unit, whose receptive field is the whole picture. A part that a layer does not have is None.
Every tensor is B×C×H×W and float32; under autocast, the Fourier units and the sum over the residual
blocks still are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor | None]


def inverse(spectrum: Tensor, size: tuple[int, int], dim: tuple[int, int] = (-2, -1)) -> Tensor:
    """irfft2 with norm="ortho", also for input that is not the spectrum of real numbers.

    Behind a convolution and a ReLU, the frequencies that are their own opposites along W are no
    longer real after the step along H. By definition their imaginary parts are ignored, but cuFFT
    adds them in at some sizes, such as 128×128 (pytorch issues 104867 and 154496).
    """
    if not spectrum.is_cuda:
        # Half a spectrum does not show whether the width is odd, so the size is passed.
        return torch.fft.irfft2(spectrum, s=size, dim=dim, norm="ortho")  # type: ignore[no-any-return]
    rows = _with_real_ends(torch.fft.ifft(spectrum, dim=dim[0], norm="ortho"), size[1], dim[1])
    return torch.fft.irfft(rows, n=size[1], dim=dim[1], norm="ortho")  # type: ignore[no-any-return]


def _with_real_ends(rows: Tensor, width: int, dim: int) -> Tensor:
    """The spectrum without the imaginary parts of the frequencies 0 and, for an even width, W/2."""
    kept = torch.ones(rows.shape[dim], device=rows.device)
    # Separately: a list of indices would be copied to the GPU, which a recording does not allow.
    kept[0] = 0
    if width % 2 == 0:
        kept[-1] = 0
    shape = [1] * rows.ndim
    shape[dim] = -1
    return torch.complex(rows.real, rows.imag * kept.view(shape))


class FourierUnit(nn.Module):
    """Convolution in the frequency domain (FFC section 3.2; LaMa section 2.1, steps a to c).

    Takes and returns B×C×H×W of any dtype, and computes in float32: the lowest frequency of an H×W
    map grows with sqrt(H·W) and exceeds float16's range.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # Twice the channels: a complex number counts as two.
        self.conv_layer = nn.Conv2d(2 * in_channels, 2 * out_channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(2 * out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # B, C, H, W//2+1 complex: a real signal's spectrum is symmetric, so one half suffices
        spectrum = torch.fft.rfft2(x.float(), norm="ortho")
        # B, C, H, W//2+1, (re, im) -> B, C, (re, im), H, W//2+1
        parts = torch.view_as_real(spectrum).permute(0, 1, 4, 2, 3)
        # -> B, C·(re, im), H, W//2+1: each channel's real part, then its imaginary part
        parts = parts.reshape(batch, 2 * channels, height, -1)
        parts = self.relu(self.bn(self.conv_layer(parts)))
        # -> B, C, (re, im), H, W//2+1 -> B, C, H, W//2+1, (re, im)
        parts = parts.reshape(batch, -1, 2, height, width // 2 + 1).permute(0, 1, 3, 4, 2)
        spectrum = torch.view_as_complex(parts.contiguous())
        return inverse(spectrum, (height, width)).to(x.dtype)


class SpectralTransform(nn.Module):
    """The global-to-global path: `conv2(x + fu(x))` behind a halving 1×1 convolution (FFC fig. 2).

    B×in×H×W to B×out×H×W.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, hidden, kernel_size=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.fu = FourierUnit(hidden, hidden)
        self.conv2 = nn.Conv2d(hidden, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        out: Tensor = self.conv2(x + self.fu(x))
        return out


class FFC(nn.Module):
    """Fast Fourier convolution (FFC eq. 2 and 3; LaMa fig. 2).

    local' = l2l(local) + g2l(global); global' = l2g(local) + spectral(global). `ratio_gin` and
    `ratio_gout` in [0, 1) are the shares of global channels in the input and the output. A strided
    global input is not supported: no published network has one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        ratio_gin: float,
        ratio_gout: float,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        in_global, out_global = int(in_channels * ratio_gin), int(out_channels * ratio_gout)
        in_local, out_local = in_channels - in_global, out_channels - out_global

        def conv(source: int, target: int) -> nn.Conv2d:
            return nn.Conv2d(
                source, target, kernel_size, stride, padding, bias=False, padding_mode="reflect"
            )

        self.convl2l = conv(in_local, out_local)
        self.convl2g = conv(in_local, out_global) if out_global else None
        self.convg2l = conv(in_global, out_local) if in_global else None
        self.convg2g = (
            SpectralTransform(in_global, out_global) if in_global and out_global else None
        )

    def forward(self, x: Pair) -> Pair:
        x_l, x_g = x
        out_l = self.convl2l(x_l)
        if self.convg2l is not None:
            out_l = out_l + self.convg2l(x_g)
        if self.convl2g is None:
            return out_l, None
        out_g = self.convl2g(x_l)
        if self.convg2g is not None:
            out_g = out_g + self.convg2g(x_g)
        return out_l, out_g


class FFC_BN_ACT(nn.Module):
    """FFC, then batch norm and ReLU on each part (LaMa fig. 2). Pair in, pair out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        ratio_gin: float,
        ratio_gout: float,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.ffc = FFC(
            in_channels, out_channels, kernel_size, ratio_gin, ratio_gout, stride, padding
        )
        out_global = int(out_channels * ratio_gout)
        self.bn_l = nn.BatchNorm2d(out_channels - out_global)
        self.bn_g = nn.BatchNorm2d(out_global) if out_global else None
        self.act_l = nn.ReLU(inplace=True)
        self.act_g = nn.ReLU(inplace=True)

    def forward(self, x: Pair | Tensor) -> Pair:
        x_l, x_g = self.ffc(x if isinstance(x, tuple) else (x, None))
        x_l = self.act_l(self.bn_l(x_l))
        if self.bn_g is not None:
            x_g = self.act_g(self.bn_g(x_g))
        return x_l, x_g


class FFCResnetBlock(nn.Module):
    """Two FFCs with a residual connection over each part (LaMa fig. 2). Pair in, pair out."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.conv1 = FFC_BN_ACT(channels, channels, 3, ratio, ratio, padding=1)
        self.conv2 = FFC_BN_ACT(channels, channels, 3, ratio, ratio, padding=1)

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y_l, y_g = self.conv2(self.conv1(x))
        # The sum over all blocks stays float32: in half precision each block would round it again.
        return x[0].float() + y_l, x[1].float() + y_g


class ConcatTupleLayer(nn.Module):
    """(local, global) to one tensor: B×L×H×W and B×G×H×W to B×(L+G)×H×W."""

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat(x, dim=1)


@dataclass(frozen=True)
class GeneratorConfig:
    """The parameters of a generator."""

    #: Input channels: red, green, blue, mask.
    input_nc: int = 4
    #: Output channels: red, green, blue.
    output_nc: int = 3
    #: Channels behind the stem; each downsampling doubles them.
    ngf: int = 64
    #: How often height and width are halved.
    n_downsampling: int = 3
    #: Residual blocks at the lowest resolution.
    n_blocks: int = 9
    #: Share of global channels in the residual blocks, above 0 and below 1.
    ratio: float = 0.75
    #: The most channels of a layer.
    max_features: int = 1024

    @property
    def unit(self) -> int:
        """The number that sides of pictures are padded to multiples of: the stride, or 8."""
        return max(8, 1 << self.n_downsampling)

    def width(self, halvings: int) -> int:
        """The channels after so many downsamplings."""
        return min(self.max_features, self.ngf << halvings)


class FFCResNetGenerator(nn.Module):
    """Stem, downsamplings, residual FFC blocks, upsamplings (LaMa section 2.1 and appendix).

    B×input_nc×H×W to B×output_nc×H×W in [0, 1], same dtype. H and W are multiples of
    2**n_downsampling and at least twice that; less cannot be reflected at the border.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            FFC_BN_ACT(config.input_nc, config.ngf, 7, 0, 0),
        ]
        for i in range(config.n_downsampling):
            # Only the last one splits the channels: the blocks behind it need a pair.
            ratio_gout = config.ratio if i == config.n_downsampling - 1 else 0
            layers.append(FFC_BN_ACT(width(i), width(i + 1), 3, 0, ratio_gout, stride=2, padding=1))
        for _ in range(config.n_blocks):
            layers.append(FFCResnetBlock(width(config.n_downsampling), config.ratio))
        layers.append(ConcatTupleLayer())
        for i in range(config.n_downsampling, 0, -1):
            layers += [
                nn.ConvTranspose2d(width(i), width(i - 1), 3, 2, padding=1, output_padding=1),
                nn.BatchNorm2d(width(i - 1)),
                nn.ReLU(inplace=True),
            ]
        layers += [
            nn.ReflectionPad2d(3),
            nn.Conv2d(config.ngf, config.output_nc, 7),
            nn.Sigmoid(),
        ]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.model(x)
        return predicted


def lama_fourier(**changes: Any) -> FFCResNetGenerator:
    """The 9-block network; `changes` are fields of `GeneratorConfig`."""
    return FFCResNetGenerator(GeneratorConfig(**{"n_blocks": 9, **changes}))


def big_lama(**changes: Any) -> FFCResNetGenerator:
    """The 18-block network; `changes` are fields of `GeneratorConfig`."""
    return FFCResNetGenerator(GeneratorConfig(**{"n_blocks": 18, **changes}))
