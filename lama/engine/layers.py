"""Convolutions that add a bias and another branch and apply ReLU, without further passes.

On a CPU they call oneDNN's fused primitives with weights whose layout is converted once. Elsewhere,
and for dtypes that oneDNN does not support on this processor, they are torch's own operations.
"""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .folding import Affine

_fused = torch.ops.mkldnn

#: Slope of the fused ReLU below zero. oneDNN's ReLU turns NaN into 0, which would hide an overflow;
#: with a slope NaN stays, and values this small vanish in the next sum.
_SLOPE = 1e-20


def fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has fused primitives for `dtype`."""
    if device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and bool(_fused._is_mkldnn_bf16_supported())
    )


class Conv:
    """A convolution without padding: B×in×H×W to B×out×H'×W', channels-last.

    With ReLU, NaN stays NaN; with `plus` on a CPU it may become 0.
    """

    def __init__(
        self,
        affine: Affine,
        device: torch.device,
        dtype: torch.dtype,
        stride: tuple[int, int] = (1, 1),
        relu: bool = True,
    ) -> None:
        self._weight = _placed(affine.weight, device, dtype)
        self._bias = _placed_bias(affine.bias, device, dtype)
        self._stride = list(stride)
        self._relu = relu
        self._fuses = fuses(device, dtype)
        self._packings: dict[int, Tensor] = {}

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """`plus`, of the result's shape, is added before the ReLU."""
        if self._fuses:
            return self._run_fused(x, plus)
        out = functional.conv2d(x, self._weight, self._bias, self._stride)
        if plus is not None:
            out += plus
        return out.relu_() if self._relu else out

    def _run_fused(self, x: Tensor, plus: Tensor | None) -> Tensor:
        out: Tensor
        where = (x, self._weight_for(x), self._bias, [0, 0], self._stride, [1, 1], 1)
        if plus is not None:
            relu = "relu" if self._relu else None  # this primitive has no slope
            x, *rest = where
            out = _fused._convolution_pointwise.binary(x, plus, *rest, "add", 1.0, relu, [], "")
        elif self._relu:
            out = _fused._convolution_pointwise(*where, "leaky_relu", [_SLOPE], "")
        else:
            out = _fused._convolution_pointwise(*where, "none", [], "")
        return out

    def _weight_for(self, x: Tensor) -> Tensor:
        """The weight in the layout that oneDNN needs for `x`, kept once per layout."""
        layout = _layout(self._weight.shape, self._weight.dtype, self._stride, x.shape)
        packed = self._packings.get(layout)
        if packed is None:
            # A packed weight needs no plain copy.
            plain = self._weight.to_dense() if self._packings else self._weight
            packed = self._packings[layout] = _packed(plain, self._stride, x.shape)
            self._weight = packed
        return packed


def _packed(weight: Tensor, stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    out: Tensor = _fused._reorder_convolution_weight(weight, [0, 0], stride, [1, 1], 1, list(shape))
    return out


#: The names of weights' layouts, by everything that they depend on, for the whole process.
_layouts: dict[tuple[object, ...], int] = {}
_MOST_LAYOUTS = 1 << 16


def _layout(
    kernel: torch.Size, dtype: torch.dtype, stride: Sequence[int], shape: torch.Size
) -> int:
    """A name for the layout of a kernel (out × in × k × k) that oneDNN needs for this `shape`.

    A weight in another layout is converted at every call, which for a small picture takes longer
    than the convolution. There are few layouts, and torch does not name them: a packed kernel of
    known numbers identifies its layout.
    """
    key = (kernel, dtype, *stride, shape, torch.get_num_threads())
    if key not in _layouts:
        if len(_layouts) >= _MOST_LAYOUTS:
            _layouts.clear()
        # Numbers that every dtype holds exactly, in an order without the period of any block.
        known = torch.arange(math.prod(kernel)).remainder_(251).view(kernel)
        packed = _packed(_placed(known, torch.device("cpu"), dtype), stride, shape)
        content = ctypes.string_at(_fused.data_ptr(packed), _fused._nbytes(packed))
        _layouts[key] = hash(content)
    return _layouts[key]


class Up:
    """The generator's transposed convolution with ReLU: B×in×H×W to B×out×2H×2W."""

    def __init__(self, affine: Affine, device: torch.device, dtype: torch.dtype) -> None:
        self._weight = _placed(affine.weight, device, dtype)
        self._bias = _placed_bias(affine.bias, device, dtype)
        self._fuses = fuses(device, dtype)
        self._packed = False

    def __call__(self, x: Tensor) -> Tensor:
        if not self._fuses:
            return functional.conv_transpose2d(
                x, self._weight, self._bias, stride=2, padding=1, output_padding=1
            ).relu_()
        where = ([1, 1], [1, 1], [2, 2], [1, 1], 1)
        if not self._packed:
            self._weight = _fused._reorder_convolution_transpose_weight(
                self._weight, *where, list(x.shape)
            )
            self._packed = True
        out: Tensor = _fused._convolution_transpose_pointwise(
            x, self._weight, self._bias, *where, "leaky_relu", [_SLOPE], ""
        )
        return out


class Scratch:
    """Buffers that are used again: on a CPU fresh memory takes longer than writing into it.

    On a GPU torch keeps memory itself, and the memory of a recorded graph must never move.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flat: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised contiguous tensor, valid until the next `take` of that name."""
        if self._device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=self._device)
        size = math.prod(shape)
        flat = self._flat.get((name, dtype))
        if flat is None or len(flat) < size:
            flat = self._flat[name, dtype] = torch.empty(size, dtype=dtype, device=self._device)
        return flat[:size].view(shape)


def reflected(x: Tensor, edge: tuple[int, int, int, int], take: Callable[..., Tensor]) -> Tensor:
    """Mirrors the edges outwards, without repeating the outermost pixel.

    B×C×H×W channels-last to the same with `edge` (left, right, top, bottom) more pixels, in the
    buffer that `take(shape, dtype)` gives.
    """
    left, right, top, bottom = edge
    batch, channels, height, width = x.shape
    out = take((batch, height + top + bottom, width + left + right, channels), x.dtype)
    out[:, top : top + height, left : left + width] = x.permute(0, 2, 3, 1)
    for i in range(1, max(top, bottom) + 1):
        if i <= top:
            out[:, top - i] = out[:, top + i]
        if i <= bottom:
            out[:, top + height - 1 + i] = out[:, top + height - 1 - i]
    for i in range(1, max(left, right) + 1):
        if i <= left:
            out[:, :, left - i] = out[:, :, left + i]
        if i <= right:
            out[:, :, left + width - 1 + i] = out[:, :, left + width - 1 - i]
    # B, H, W, C -> B, C, H, W, whose memory is as it was
    return out.permute(0, 3, 1, 2)


def _placed(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return weight.to(device, dtype).contiguous(memory_format=torch.channels_last)


def _placed_bias(bias: Tensor | None, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """The bias, in float32 where oneDNN adds it: rounded, it would shift whole maps."""
    if bias is None:
        return None
    return bias.to(device, torch.float32 if fuses(device, dtype) else dtype)
