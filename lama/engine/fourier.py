"""The Fourier unit: a 1×1 convolution with ReLU over the spectrum, between two transforms.

There are two ways to transform. Device, dtype and size decide which is faster, so it is measured:

- `ByFFT`: torch's FFT. Always float32.
- `ByProducts`: the DFT as matrix products. It takes more operations, but they run at the rate of
  the matrix units, in half precision too, and leave the channels innermost. The matrices grow with
  the square of a side, so longer sides than MOST_ALONG only have the FFT.

The products, for an H×W map, with h and w the frequencies of rows and columns: the reference
takes w from 0 to W/2 and all h. As the map is real, T(-h) is the conjugate of T(h) after the first
step (along H), so h from 0 to H/2 suffices; the second step (along W) makes the rows h and -h of
the spectrum from it. The inverse adds the two up again. The frequencies 0 and H/2, which are their
own opposites, occur twice, and count half in the inverse.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lama.saicinpainting.training.modules.ffc import inverse

from .folding import Affine
from .layers import Conv

#: Spectra exceed float16's range: the lowest frequency is sqrt(H·W) times the map's mean. They are
#: scaled by a power of two, which rounds nothing and commutes with ReLU. The bias is scaled too.
_SCALE = 1 / 16

#: The longest side of a map that is transformed by products, 8192 pixels of most pictures. A square
#: map of it has 42 MB of matrices in float32.
MOST_ALONG: Final = 1024

#: The number of sizes whose units are kept, and the bytes of their matrices; without limits a
#: worker's memory would grow. Measurements are kept for more sizes, as they are small and take
#: longer to make.
_MOST_SIZES, _MOST_BYTES, _MOST_CHOICES = 16, 128 << 20, 4096

#: Products along a multiple of this length take a GPU half the time of others.
_ALIGNED = 8

#: The way that is not expected to win must be faster by this factor.
_MARGIN = 1.15


class Unit(Protocol):
    """x + FourierUnit(x) for x: B×C×H×W channels-last, which it may overwrite."""

    def __call__(self, x: Tensor) -> Tensor: ...


class Pointwise(Protocol):
    """A 1×1 convolution with ReLU, B×in×H×W channels-last to B×out×H×W."""

    def __call__(self, x: Tensor) -> Tensor: ...


class ByFFT:
    """The Fourier unit by torch.fft, in float32."""

    def __init__(self, conv: Pointwise) -> None:
        self._conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        # B, C, H, W -> B, H, W, C
        rows = x.permute(0, 2, 3, 1).float()
        spectrum = torch.fft.rfft2(rows, dim=(1, 2), norm="ortho").contiguous()
        # B, H, W//2+1, C complex -> B, H, W//2+1, C·(re, im) -> B, C·(re, im), H, W//2+1
        parts = torch.view_as_real(spectrum).flatten(3).permute(0, 3, 1, 2)
        parts = self._conv(parts).permute(0, 2, 3, 1)
        spectrum = torch.view_as_complex(parts.reshape(*parts.shape[:3], -1, 2))
        signal = inverse(spectrum, (height, width), dim=(1, 2))
        # B, H, W, C -> B, C, H, W
        total = signal.add_(rows).to(x.dtype).contiguous()
        return total.permute(0, 3, 1, 2)


class ByProducts:
    """The Fourier unit by matrix products, in the dtype of the other layers."""

    def __init__(self, conv: Pointwise, matrices: Transforms) -> None:
        self._conv, self.matrices = conv, matrices

    def __call__(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        m = self.matrices
        rows = x.permute(0, 2, 3, 1)
        picture = rows.reshape(batch, height, width * channels)
        # B, H, W·C -> B, (h, re/im), W·C -> B·h, (re/im, W), C
        half = _times(m.along_height, picture).view(-1, 2 * width, channels)
        # -> B·h, (sign, w, re/im), C -> B, h·sign, w, re/im·C -> B, re/im·C, h·sign, w
        spectrum = _times(m.along_width, half)
        parts = spectrum.view(batch, -1, m.columns, 2 * channels).permute(0, 3, 1, 2)
        parts = self._conv(parts).permute(0, 2, 3, 1)
        # -> B·h, (sign, w, re/im), C -> B·h, (re/im, W), C -> B, (h, re/im), W·C
        half = _times(m.back_along_width, parts.reshape(len(half), -1, channels))
        half = half.view(batch, -1, width * channels)
        # -> B, H, W·C, and the unit's input on top
        total = _times(m.back_along_height, half, picture)
        return total.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _times(matrix: Tensor, batch: Tensor, plus: Tensor | None = None) -> Tensor:
    """M×K times B×K×N; added to `plus`, B×M×N, in place if that is given."""
    if len(batch) == 1:
        single = batch[0]
        total = matrix @ single if plus is None else plus[0].addmm_(matrix, single)
        return total.unsqueeze(0)
    many = matrix.expand(len(batch), -1, -1)
    return torch.bmm(many, batch) if plus is None else plus.baddbmm_(many, batch)


class Transforms:
    """The matrices of one size, which all units of a network share.

    On a GPU the spectrum has a few rows and columns more, which are 0 and change nothing.
    """

    def __init__(self, height: int, width: int, device: torch.device, dtype: torch.dtype) -> None:
        """Raises ValueError for a side above MOST_ALONG."""
        if max(height, width) > MOST_ALONG:
            raise ValueError(f"no matrices for a map of {width}×{height}: use ByFFT")
        aligned = _aligned(device)

        def place(matrix: Tensor) -> Tensor:
            return matrix.to(device, dtype).contiguous()

        # h, H; of a row of the spectrum there are two numbers
        cos, sin = _waves(height, max(1, aligned // 2))
        rows = len(cos)
        # h, re/im, H: the spectrum of a real row is cos - i sin
        there = torch.stack([cos, -sin], dim=1) * (_SCALE / math.sqrt(height))
        self.along_height = place(there.reshape(2 * rows, height))
        # H, h, re/im: the real part of (a + i b)(cos + i sin)
        share = torch.ones(rows, 1, dtype=torch.float64)
        share[0] = 0.5
        if height % 2 == 0:
            share[height // 2] = 0.5
        cos, sin = (cos * share).T, (sin * share).T
        back = torch.stack([cos, -sin], dim=2) / (_SCALE * math.sqrt(height))
        self.back_along_height = place(back.reshape(height, 2 * rows))

        # w, W; of a column there are four
        cos, sin = _waves(width, max(1, aligned // 4))
        self.columns = columns = len(cos)
        # w, re/im out, re/im in, W: (a + i b)(cos - i sin), and the same for the conjugate a - i b
        plus = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], dim=1)
        minus = torch.stack([torch.stack([cos, -sin], 1), torch.stack([-sin, -cos], 1)], dim=1)
        there = torch.stack([plus, minus]) / math.sqrt(width)
        self.along_width = place(there.reshape(2 * columns * 2, 2 * width))
        # A frequency w that has an opposite stands for both.
        weight = torch.full((columns, 1), 2.0, dtype=torch.float64)
        weight[0] = 1
        if width % 2 == 0:
            weight[width // 2] = 1
        cos, sin = (cos * weight).T / math.sqrt(width), (sin * weight).T / math.sqrt(width)
        # re/im out, W, w, re/im in: (a + i b)(cos + i sin); of row -h the conjugate is added, as
        # the real part of what stands behind it is the same
        plus = torch.stack([torch.stack([cos, -sin], 2), torch.stack([sin, cos], 2)])
        minus = torch.stack([torch.stack([cos, -sin], 2), torch.stack([-sin, -cos], 2)])
        both = torch.stack([plus, minus], dim=2).reshape(2 * width, 4 * columns)
        self.back_along_width = place(both)
        there_and_back = (self.along_height, self.back_along_height, self.along_width, both)
        #: Bytes of all four.
        self.nbytes = sum(matrix.numel() for matrix in there_and_back) * dtype.itemsize


def _aligned(device: torch.device) -> int:
    return _ALIGNED if device.type == "cuda" else 1


def _waves(length: int, multiple: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the frequencies 0 to L/2 at L places: f×L float64.

    Rows of zeros bring the number of frequencies to a multiple.
    """
    frequencies = length // 2 + 1
    angles = _angles(frequencies, length)
    more = (0, 0, 0, -frequencies % multiple)
    return functional.pad(torch.cos(angles), more), functional.pad(torch.sin(angles), more)


def _angles(frequencies: int, length: int) -> Tensor:
    """2π·frequency·position / length, float64, with the product reduced first, which is exact."""
    product = torch.outer(torch.arange(frequencies), torch.arange(length)) % length
    return product.double() * (2 * math.pi / length)


def planar(affine: Affine) -> Affine:
    """Channels in the order (re/im, C) instead of (C, re/im), and the bias scaled."""
    assert affine.bias is not None
    out, into = affine.weight.shape[:2]
    weight = affine.weight.view(out // 2, 2, into // 2, 2).permute(1, 0, 3, 2)
    bias = affine.bias.view(out // 2, 2).T * _SCALE
    return Affine(weight.reshape(out, into, 1, 1), bias.reshape(out))


class Spectra:
    """All Fourier units of a network, for maps of any size; the faster way is measured per size."""

    def __init__(
        self,
        affines: list[Affine],
        device: torch.device,
        dtype: torch.dtype,
        conv: Callable[[Affine], Pointwise] | None = None,
    ) -> None:
        """`conv` makes the convolutions between products, in `dtype`; otherwise they are `Conv`."""
        self._affines, self._device, self._dtype = affines, device, dtype
        self._make = conv or (lambda affine: Conv(affine, device, dtype))
        # Most networks need only one of the two.
        self._convs: dict[bool, list[Pointwise]] = {}
        self._units: OrderedDict[tuple[int, ...], list[Unit]] = OrderedDict()
        self._choices: dict[tuple[int, ...], int] = {}

    def units(self, shape: tuple[int, int, int]) -> list[Unit]:
        """For maps of `shape` (batch, height, width), in the network's order."""
        if shape not in self._units:
            self._units[shape] = self._measured(*shape)
            while len(self._units) > 1 and self._is_full():
                self._units.popitem(last=False)
        self._units.move_to_end(shape)
        return self._units[shape]

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices that are kept."""
        first = [units[0] for units in self._units.values()]
        return sum(unit.matrices.nbytes for unit in first if isinstance(unit, ByProducts))

    def _is_full(self) -> bool:
        return len(self._units) > _MOST_SIZES or self.nbytes > _MOST_BYTES

    def _measured(self, batch: int, height: int, width: int) -> list[Unit]:
        if max(height, width) > MOST_ALONG:
            return self._by_fft(slice(None))
        matrices = cache(partial(Transforms, height, width, self._device, self._dtype))
        by_products: Callable[[slice], list[Unit]] = partial(self._by_products, matrices)
        ways = [by_products, self._by_fft]
        # Half precision is good at products.
        if self._dtype.itemsize > 2:
            ways.reverse()
        shape = batch, height, width
        if shape not in self._choices:
            if len(self._choices) >= _MOST_CHOICES:
                self._choices.clear()
            channels = len(self._affines[0].weight) // 2
            sample = torch.zeros(
                batch, height, width, channels, device=self._device, dtype=self._dtype
            ).permute(0, 3, 1, 2)
            self._choices[shape] = _faster([partial(way, slice(0, 1)) for way in ways], sample)
        return ways[self._choices[shape]](slice(None))

    def _by_products(self, matrices: Callable[[], Transforms], which: slice) -> list[Unit]:
        return [ByProducts(conv, matrices()) for conv in self._convs_for(products=True)[which]]

    def _by_fft(self, which: slice) -> list[Unit]:
        return [ByFFT(conv) for conv in self._convs_for(products=False)[which]]

    def _convs_for(self, products: bool) -> list[Pointwise]:
        if products not in self._convs:
            self._convs[products] = [
                self._make(planar(affine))
                if products
                else Conv(affine, self._device, torch.float32)
                for affine in self._affines
            ]
        return self._convs[products]


def _faster(ways: Sequence[Callable[[], list[Unit]]], sample: Tensor) -> int:
    """1 if the second way is clearly faster on `sample`, else 0."""
    expected, other = (_seconds(way()[0], sample) for way in ways)
    return 1 if other * _MARGIN < expected else 0


def _seconds(unit: Unit, sample: Tensor, rounds: int = 3) -> float:
    """The shortest of a few runs: other work of the machine can only make a run longer."""
    best = math.inf
    for _ in range(rounds + 1):
        _wait(sample.device)
        started = time.perf_counter()
        unit(sample)
        _wait(sample.device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
