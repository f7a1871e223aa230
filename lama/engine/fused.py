"""The generator's forward pass on a GPU: convolutions, and one kernel between any two of them.

It is the same network as `Network`, with maps B×H×W×C throughout. The output of a convolution is
raw: `Kernels` add bias, sum, ReLU and edge in one pass over memory. Branches that read the same map
are one convolution.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .arrangements import (
    blocks_of_pixels,
    over_blocks,
    several_columns,
    up_as_blocks,
    up_as_rows,
)
from .folding import Affine, FoldedGenerator, FoldedLayer
from .fourier import Spectra, Unit
from .gathered import Gathered, rounded_count
from .kernels import Kernels, Terms, group_length, unblocked
from .network import EDGE
from .rounding import rounded
from .switches import Switches

#: Columns that the stem computes at once: its 4 input channels become 16.
_STEM_COLUMNS = 4

#: Rows and columns that the last convolution computes at once: its 3 output channels become 48.
_LAST_SIDE = 4

#: Rows and columns of pixels that the last convolution reads as one pixel.
_READ_SIDE = 2

#: The local and the global channels, each with the edge of one pixel that the next layer reads.
Pair = tuple[Tensor, Tensor]


def fits(folded: FoldedGenerator, dtype: torch.dtype) -> bool:
    """Whether all maps have numbers of channels that the kernels support."""
    affines = [folded.stem, folded.to_local, folded.to_global]
    affines += [layer.reduce for block in folded.blocks for layer in block]
    return not any(len(affine.weight) % group_length(dtype) for affine in affines)


class FusedNetwork:
    """All weights of a generator in one dtype on one device; for generators that fit."""

    def __init__(
        self, folded: FoldedGenerator, device: torch.device, dtype: torch.dtype, kernels: Kernels
    ) -> None:
        self.device, self.dtype = device, dtype
        self._kernels = kernels
        self.switches = Switches()
        self._beside: Any = None
        if device.type == "cuda":
            self._beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._broken = not folded.is_finite()
        assert folded.last.bias is not None
        self._last_bias = folded.last.bias.to(device)
        folded = rounded(folded, dtype)
        self._channels = len(folded.stem.weight)
        self._locals = len(folded.to_local.weight)
        self._stem = self._conv(several_columns(folded.stem, _STEM_COLUMNS))
        self._downs = [
            self._conv(affine, 2)
            for affine in (*folded.downs, _together(folded.to_local, folded.to_global))
        ]
        self._layers = [
            (_Layer(first, self), _Layer(second, self)) for first, second in folded.blocks
        ]
        self._ups = [_Up(affine, self) for affine in folded.ups]
        last = blocks_of_pixels(folded.last, (_LAST_SIDE, _LAST_SIDE))
        self._last = self._conv(over_blocks(last, _READ_SIDE), _LAST_SIDE // _READ_SIDE)
        affines = [layer.spectrum for block in folded.blocks for layer in block]
        self._spectra = Spectra(affines, device, dtype, self._finished)
        #: Pixels of the picture per pixel of the blocks' maps, in each direction.
        self.unit = 2 ** len(folded.ups)

    def logits(self, pixels: Tensor) -> Tensor:
        """B×H×W×4 uint8 to B×H×W×3.

        `pixels` are red, green, blue, with 0 in the hole, and the mask, 255 in the hole.
        """
        return unblocked(self._run(pixels)) + self._last_bias

    def paint(self, pixels: Tensor, windows: int = 0) -> tuple[Tensor, Tensor]:
        """The pictures with their holes filled, B×H×W×3 uint8, and whether each is finite: B.

        The decoder runs on so many `windows`, which must suffice for the holes, or on everything.
        """
        return self._kernels.end(self._run(pixels, windows), self._last_bias, pixels)

    def windows(self, cells: int, batch: int, height: int, width: int) -> int:
        """The number of windows to decode for pictures of a size; 0 if all of it is cheaper.

        `cells`: those with holes in all pictures, as `gathered.cells_with` counts them.
        """
        if self.unit % _LAST_SIDE:
            return 0
        return rounded_count(cells, batch, height // self.unit, width // self.unit)

    def units(self, batch: int, height: int, width: int) -> list[Unit]:
        """The Fourier units for pictures of a size."""
        return self._spectra.units((batch, height // self.unit, width // self.unit))

    def _run(self, pixels: Tensor, windows: int = 0) -> Tensor:
        """The whole network, to the input of `Kernels.end`; 0 outside of windows."""
        units = self.units(*pixels.shape[:3])
        raw, bias = self._encode(pixels)
        pair = self.finished(self._parts(raw), self._edged(raw), bias)
        features = torch.empty_like(raw)
        for i, (first, second) in enumerate(self._layers):
            inner = first(pair, units[2 * i], self._edged(raw))
            last = i + 1 == len(self._layers)
            outs = self._parts(features) if last else self._edged(raw)
            pair = second(inner, units[2 * i + 1], outs, onto=pair)
        if windows:
            gathered = Gathered(pixels, windows, self.unit)
            blocks = gathered.spread(self._decode(gathered.windows(features)))
        else:
            blocks = self._decode(features)
        return blocks.fill_(torch.nan) if self._broken else blocks

    def _encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The raw input of the residual blocks, all channels together, and its bias."""
        batch, height, width, channels = pixels.shape
        # The stem reads its edge and, to the right, whole groups of columns.
        shape = (batch, height + 2 * EDGE, width + 2 * _STEM_COLUMNS, channels)
        values = torch.empty(shape, dtype=self.dtype, device=self.device)
        self._kernels.begin(pixels, values, (EDGE, EDGE))
        # B, H, W, 4 -> B, H, W/4, 4·4 -> B, H, W/4, 4·C -> B, H, W, C
        raw = self._stem(values.view(*shape[:2], -1, channels * _STEM_COLUMNS))
        raw = raw.view(batch, height, width, self._channels)
        bias = _part(self._stem.bias, slice(self._channels))
        for down in self._downs:
            edged = raw.new_empty((batch, raw.shape[1] + 1, raw.shape[2] + 1, raw.shape[3]))
            raw, bias = down(self._kernels.finish(raw, edged, Terms(bias), (1, 1))), down.bias
        return raw, bias

    def _parts(self, whole: Tensor) -> Pair:
        return whole[..., : self._locals], whole[..., self._locals :]

    def _edged(self, whole: Tensor) -> Pair:
        """Empty maps with an edge, for the local and the global channels."""
        batch, height, width, channels = whole.shape
        counts = self._locals, channels - self._locals
        near, far = (whole.new_empty((batch, height + 2, width + 2, count)) for count in counts)
        return near, far

    def finished(
        self,
        raw: Pair,
        outs: Pair,
        bias: Tensor | None,
        plus: Tensor | None = None,
        onto: Pair | None = None,
    ) -> Pair:
        """`outs`, with an edge or without; `bias` and `plus` are of both parts together."""
        for i, channels in enumerate((slice(self._locals), slice(self._locals, None))):
            edge = (outs[i].shape[1] - raw[i].shape[1]) // 2
            above = None if onto is None else _inside(onto[i])
            terms = Terms(_part(bias, channels), _part(plus, channels), above)
            self._kernels.finish(raw[i], outs[i], terms, (edge, edge))
        return outs

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Runs its body on a second stream, in parallel to the code that follows, up to `join`.

        The Fourier unit is bound by memory, the convolutions by arithmetic. Memory that the body
        took is not used again before the stream has waited for the next `beside`.
        """
        if self._beside is None or not self.switches.second_stream:
            yield
            return
        self._beside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._beside):
            yield

    def join(self) -> None:
        if self._beside is not None and self.switches.second_stream:
            torch.cuda.current_stream(self.device).wait_stream(self._beside)

    def reduced(self, conv: _Raw, far: Tensor) -> Tensor:
        """The input of a Fourier unit: B×H×W×C without an edge."""
        raw = _inside(conv(far))
        return self._kernels.finish(raw, torch.empty_like(raw), Terms(conv.bias))

    def _decode(self, x: Tensor) -> Tensor:
        """B×H×W×(4·4·3): the logits of blocks of pixels, without their bias."""
        *ups, last = self._ups
        for up in ups:
            raw, odd = up(x)
            x = raw if odd is None else raw.new_empty(up.shape(x))
            self._kernels.finish(raw, x, Terms(up.bias), odd=odd)
        raw, odd = last(x)
        batch, height, width, channels = last.shape(x)
        rows, columns = (side // _READ_SIDE for side in (height + 2 * EDGE, width + 2 * EDGE))
        edged = x.new_empty((batch, rows, columns, _READ_SIDE**2 * channels))
        return self._last(self._kernels.finish(raw, edged, Terms(last.bias), (EDGE, EDGE), odd))

    def _conv(self, affine: Affine, stride: int = 1) -> _Raw:
        return _Raw(affine, self.device, self.dtype, stride)

    def _finished(self, affine: Affine) -> _Finished:
        return _Finished(self._conv(affine), self._kernels)


class _Raw:
    """A convolution without padding and without its bias: B×H×W×in to B×H'×W'×out."""

    def __init__(
        self, affine: Affine, device: torch.device, dtype: torch.dtype, stride: int
    ) -> None:
        weight = affine.weight.to(device, dtype)
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self._matrix = weight.flatten(1) if weight[0, 0].numel() == 1 else None
        #: float32, as the kernels need it.
        self.bias = None if affine.bias is None else affine.bias.to(device)
        self._stride = stride

    def __call__(self, x: Tensor) -> Tensor:
        if self._matrix is not None:
            return functional.linear(x, self._matrix)
        out = functional.conv2d(x.permute(0, 3, 1, 2), self.weight, None, self._stride)
        return out.permute(0, 2, 3, 1).contiguous()


class _Up:
    """The generator's transposed convolution, raw, in one of three forms.

    They are `Switches.ups`. The weights of the other two are made when they are first used.
    """

    def __init__(self, affine: Affine, network: FusedNetwork) -> None:
        self._network = network
        conv = network._conv(affine)
        self._weight, self.bias = conv.weight, conv.bias
        self._blocks: Tensor | None = None
        self._rows: tuple[Tensor, Tensor] | None = None

    def shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """Of the result: B×2H×2W×out."""
        batch, height, width, _ = x.shape
        return batch, 2 * height, 2 * width, self._weight.shape[1]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """B×H×W×in to B×2H×2W×out; or its even and odd rows, as `Kernels.finish` takes them."""
        ways = {"blocks": self._by_blocks, "rows": self._by_rows}
        way = ways.get(self._network.switches.ups)
        if way is not None:
            return way(x)
        out = functional.conv_transpose2d(
            x.permute(0, 3, 1, 2), self._weight, stride=2, padding=1, output_padding=1
        )
        return out.permute(0, 2, 3, 1).contiguous(), None

    def _by_blocks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._blocks is None:
            self._blocks = _last_channels(up_as_blocks(self._weight))
        even, odd = _behind(x, self._blocks).chunk(2, dim=3)
        return even, odd

    def _by_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._rows is None:
            even, odd = up_as_rows(self._weight)
            self._rows = _last_channels(even), _last_channels(odd)
        even, odd = (_behind(x, weight) for weight in self._rows)
        return even, odd


def _last_channels(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _behind(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution that finds 0 behind the last row and column: B×H×W×in to B×H×W×out."""
    rows, columns = (side - 1 for side in weight.shape[2:])
    # What also finds 0 before the first ones is left out.
    out = functional.conv2d(x.permute(0, 3, 1, 2), weight, None, padding=(rows, columns))
    return out.permute(0, 2, 3, 1).contiguous()[:, rows:, columns:]


class _Finished:
    """A 1×1 convolution with bias and ReLU: B×in×H×W channels-last to B×out×H×W."""

    def __init__(self, conv: _Raw, kernels: Kernels) -> None:
        self._conv, self._kernels = conv, kernels

    def __call__(self, x: Tensor) -> Tensor:
        out = self._conv(x.permute(0, 2, 3, 1))
        return self._kernels.finish(out, out, Terms(self._conv.bias)).permute(0, 3, 1, 2)


class _Layer:
    """One FFC of a residual block with its batch norms and ReLUs."""

    def __init__(self, folded: FoldedLayer, network: FusedNetwork) -> None:
        self._network = network
        # The branches from the local channels have the bias of the sums.
        self._from_local = network._conv(_together(folded.local_to_local, folded.local_to_global))
        self._to_local = network._conv(folded.global_to_local)
        self._reduce = network._conv(folded.reduce)
        self._expand = network._conv(folded.expand)

    def __call__(self, pair: Pair, unit: Unit, outs: Pair, onto: Pair | None = None) -> Pair:
        near, far = pair
        with self._network.beside():
            plus, local = self._from_local(near), self._to_local(far)
        reduced = self._network.reduced(self._reduce, far)
        wide = self._expand(unit(reduced.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        self._network.join()
        return self._network.finished((local, wide), outs, self._from_local.bias, plus, onto)


def _together(one: Affine, other: Affine) -> Affine:
    """Two convolutions of the same map as one."""
    assert one.bias is not None
    assert other.bias is not None
    return Affine(torch.cat([one.weight, other.weight]), torch.cat([one.bias, other.bias]))


def _part(tensor: Tensor | None, channels: slice) -> Tensor | None:
    return None if tensor is None else tensor[..., channels]


def _inside(edged: Tensor) -> Tensor:
    return edged[:, 1:-1, 1:-1]
