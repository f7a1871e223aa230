"""The generator's forward pass: encoder, residual blocks, decoder.

The first and the last layers work on few channels and many pixels. On a CPU they run in bands of
rows that stay in the cache, and the decoder only on the requested windows. The stem and the last
convolution treat several columns as one pixel, as matrix products are fast with many channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .arrangements import blocks_of_pixels, several_columns
from .folding import Affine, FoldedGenerator, FoldedLayer
from .fourier import Spectra, Unit
from .layers import Conv, Scratch, Up, fuses, reflected
from .pixels import composite
from .rounding import rounded

#: Columns that the stem computes at once: its 4 input channels become 8.
_STEM_COLUMNS = 2

#: Columns that the last convolution computes at once: its 3 output channels become 15.
_LAST_COLUMNS = 5

#: Reflected pixels around the picture, and around what the last convolution reads.
EDGE = 3

#: Bytes that a band of the stem's output, or of the last convolution's input, has on a CPU.
_BAND_BYTES = 8 << 20


class Network:
    """All weights of a generator in one dtype on one device."""

    def __init__(self, folded: FoldedGenerator, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._scratch = Scratch(device)
        self._broken = not folded.is_finite()
        folded = rounded(folded, dtype)

        def conv(affine: Affine, stride: int = 1, relu: bool = True) -> Conv:
            return Conv(affine, device, dtype, (stride, stride), relu)

        self._channels = len(folded.stem.weight)
        self._stem = conv(several_columns(folded.stem, _STEM_COLUMNS))
        self._downs = [conv(affine, stride=2) for affine in folded.downs]
        self._to_local = conv(folded.to_local, stride=2)
        self._to_global = conv(folded.to_global, stride=2)
        self._layers = [
            (_Layer(first, self), _Layer(second, self)) for first, second in folded.blocks
        ]
        self._ups = [Up(affine, device, dtype) for affine in folded.ups]
        self._last = Conv(
            blocks_of_pixels(folded.last, (1, _LAST_COLUMNS)),
            device,
            dtype,
            (1, _LAST_COLUMNS),
            relu=False,
        )
        # A fused sum with ReLU turns NaN into 0 (see `Conv`), so its summands are checked.
        self._hides_overflows = fuses(device, dtype)
        affines = [layer.spectrum for block in folded.blocks for layer in block]
        self._spectra = Spectra(affines, device, dtype)
        #: Pixels of the picture per pixel of the blocks' maps, in each direction.
        self.unit = 2 ** len(folded.ups)

    def logits(self, pixels: Tensor) -> Tensor:
        """The whole network: B×H×W×4 uint8 to B×H×W×3."""
        return self.decode(self.features(pixels))

    def paint(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures with their holes filled, B×H×W×3 uint8, and whether each is finite: B."""
        return composite(self.logits(pixels), pixels)

    def features(self, pixels: Tensor) -> Tensor:
        """The decoder's input: B×H×W×4 uint8 to B×C×H/8×W/8.

        `pixels` are red, green, blue, with 0 in the hole, and the mask, 255 in the hole.
        """
        local, wide = self._encode(pixels)
        return torch.cat(self._blocks(local, wide), dim=1)

    def units(self, batch: int, height: int, width: int) -> list[Unit]:
        """The Fourier units for pictures of a size."""
        return self._spectra.units((batch, height // self.unit, width // self.unit))

    def decode(self, features: Tensor) -> Tensor:
        """Features of the whole picture, or a window of them, to logits: B×H×W×3."""
        x = features.contiguous(memory_format=torch.channels_last)
        for up in self._ups[:-1]:
            x = up(x)
        batch, _, height, width = x.shape
        logits = torch.empty(
            (batch, 2 * height, 2 * width, 3), dtype=self.dtype, device=self.device
        )
        rows = self._band_rows(2 * width) // 2
        for start in range(0, height, rows):
            stop = min(height, start + rows)
            logits[:, 2 * start : 2 * stop] = self._last_rows(x, start, stop)
        return logits

    def _last_rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The last two layers on rows of their input: B×2·(stop - start)×2W×3 logits."""
        height, width = x.shape[2], 2 * x.shape[3]
        # The last convolution reads 3 rows more on both sides, whose last is a whole pair's first.
        first, end = max(0, start - 2), min(height, stop + 2)
        band = self._ups[-1](x[:, :, first:end])
        top, bottom = 2 * (start - first) - EDGE, 2 * (end - stop) - EDGE
        band = band[:, :, max(0, top) : band.shape[2] - max(0, bottom)]
        surplus = -width % _LAST_COLUMNS
        # The surplus columns on the right may have any values.
        edge = (EDGE, EDGE + surplus, max(0, -top), max(0, -bottom))
        band = self._last(reflected(band, edge, self._taker("last")))
        # B, columns·3, H, W/columns -> B, H, W, 3
        rows = band.permute(0, 2, 3, 1).reshape(len(band), -1, width + surplus, 3)
        return rows[:, :, :width]

    def _band_rows(self, width: int) -> int:
        """The rows that are computed at once at the picture's resolution."""
        if self.device.type != "cpu":
            return 1 << 30
        return max(16, _BAND_BYTES // (width * self._channels * self.dtype.itemsize) // 4 * 4)

    def _encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        height, width = pixels.shape[1:3]
        # Even columns beside the edge, so that two of them can be treated as one
        edged = reflected(
            pixels.permute(0, 3, 1, 2), (EDGE, EDGE, EDGE, EDGE), self._taker("pixels")
        )
        values = self._scratch.take("values", tuple(edged.permute(0, 2, 3, 1).shape), self.dtype)
        values.copy_(edged.permute(0, 2, 3, 1)).mul_(1 / 256)
        banded = min(2, len(self._downs))
        x = self._in_bands(values, banded, height >> banded, width >> banded)
        for level, down in enumerate(self._downs[banded:]):
            x = reflected(down(x), (1, 0, 1, 0), self._taker(f"down {level}"))
        return self._to_local(x), self._to_global(x)

    def _in_bands(self, values: Tensor, level: int, height: int, width: int) -> Tensor:
        """The stem and `level` downsamplings, with a reflected row and column on top and left."""
        rows = max(4, self._band_rows(width << level) >> level)
        channels = self._channels << level
        out = self._scratch.take(
            "encoded", (len(values), height + 1, width + 1, channels), self.dtype
        )
        for start in range(0, height, rows):
            stop = min(height, start + rows)
            band = self._rows(values, level, start, stop)
            out[:, 1 + start : 1 + stop, 1:] = band.permute(0, 2, 3, 1)
        out[:, 0] = out[:, 2]
        out[:, :, 0] = out[:, :, 2]
        return out.permute(0, 3, 1, 2)

    def _rows(self, values: Tensor, level: int, start: int, stop: int) -> Tensor:
        """Rows of the map behind the stem and `level` downsamplings: B×C×(stop - start)×W."""
        if level == 0:
            band = values[:, start : stop + 2 * EDGE]
            # B, H, W, 4 -> B, H, W/2, 2·4 -> B, 2·4, H, W/2
            pairs = band.reshape(len(band), band.shape[1], -1, 4 * _STEM_COLUMNS)
            out = self._stem(pairs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return out.reshape(len(out), out.shape[1], -1, self._channels).permute(0, 3, 1, 2)
        # A row of the result reads three: the one above its own two, and these.
        first = max(0, 2 * start - 1)
        below = self._rows(values, level - 1, first, 2 * stop)
        top = 1 if start == 0 else 0
        edged = reflected(below, (1, 0, top, 0), self._taker(f"band {level}"))
        return self._downs[level - 1](edged)

    def _blocks(self, local: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, height, width = wide.shape
        transforms = self._spectra.units((batch, height, width))
        sums = []
        for i, (first, second) in enumerate(self._layers):
            inner = first(local, wide, transforms[2 * i])
            out = second(*inner, transforms[2 * i + 1])
            local, wide = local + out[0], wide + out[1]
            if self._hides_overflows:
                sums += [x.sum() for x in (*inner, local, wide)]
        if self._broken or (sums and not bool(torch.isfinite(torch.stack(sums)).all())):
            local.fill_(torch.nan)
        return local, wide

    def _taker(self, name: str) -> Callable[[tuple[int, ...], torch.dtype], Tensor]:
        return partial(self._scratch.take, name)


class _Layer:
    """One FFC of a residual block with its batch norms and ReLUs."""

    def __init__(self, folded: FoldedLayer, network: Network) -> None:
        def conv(affine: Affine, relu: bool = True) -> Conv:
            return Conv(affine, network.device, network.dtype, relu=relu)

        self._local_to_local = conv(folded.local_to_local, relu=False)
        self._global_to_local = conv(folded.global_to_local)
        self._local_to_global = conv(folded.local_to_global, relu=False)
        self._reduce = conv(folded.reduce)
        self._expand = conv(folded.expand)
        self._taker = network._taker

    def __call__(self, local: Tensor, wide: Tensor, unit: Unit) -> tuple[Tensor, Tensor]:
        """Local and global channels to local and global channels."""
        edge = (1, 1, 1, 1)
        near = reflected(local, edge, self._taker("local"))
        far = reflected(wide, edge, self._taker("global"))
        new_local = self._global_to_local(far, plus=self._local_to_local(near))
        reduced = unit(self._reduce(wide))
        new_wide = self._expand(reduced, plus=self._local_to_global(near))
        return new_local, new_wide
