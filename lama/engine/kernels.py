"""Kernels for a GPU's work before, between and behind the convolutions, in one pass over memory.

Behind a convolution come a bias, the sum with another branch, a ReLU, the sum with the input of a
block, and the reflected edge that the next convolution reads. torch makes a pass over memory for
each, which on a fast GPU takes as long as the convolutions.

Maps here are B×H×W×C with contiguous channels and any other strides.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .nvrtc import kernels, numbers_of, pointers
from .pixels import composite
from .sources import source

#: Bytes that a thread reads and writes at once; a map's channels must fill them.
_GROUP_BYTES = 16


def group_length(dtype: torch.dtype) -> int:
    """The number of channels read and written at once; a map must have a multiple of it."""
    return _GROUP_BYTES // dtype.itemsize


@dataclass(frozen=True)
class Terms:
    """The terms that are added to a map; each may be missing."""

    #: C, float32.
    bias: Tensor | None = None
    #: Before the ReLU, and after it: B×H×W×C.
    plus: Tensor | None = None
    onto: Tensor | None = None


class Kernels:
    """The kernels in torch's own operations, on any device: slow, and the definition of each.

    `out` is overwritten and returned.
    """

    def begin(self, pixels: Tensor, out: Tensor, corner: tuple[int, int]) -> Tensor:
        """Bytes B×H×W×4 as B×H'×W'×4 numbers, divided by 256, with the edge that `finish` makes."""
        return out.copy_(_edged(pixels, out.shape[1:3], corner)).mul_(1 / 256)

    def finish(
        self,
        given: Tensor,
        out: Tensor,
        terms: Terms,
        corner: tuple[int, int] = (0, 0),
        odd: Tensor | None = None,
    ) -> Tensor:
        """relu(given + bias + plus) + onto; sums are float32, and NaN stays NaN.

        `given` is B×H×W×C. With `odd` both are B×H/2×W/2×2·C: the even rows and the odd ones, with
        two columns as one pixel. `out` may have more rows and columns, which are reflected:
        `corner` of them (left, top) before the first, the rest behind the last. If it has 4·C
        channels, it is a map of blocks of 2×2 such pixels.
        """
        total = (given if odd is None else interleaved(given, odd)).float()
        for term in (terms.bias, terms.plus):
            total = total if term is None else total + term
        total = total.relu() if terms.onto is None else total.relu() + terms.onto
        side = _side(total.shape[3], out)
        batch, rows, columns, _ = out.shape
        # B, H, W, N·N·C -> B, H, W, N, N, C -> B, H, N, W, N, C, which is the rows' order
        blocks = out.view(batch, rows, columns, side, side, -1).permute(0, 1, 3, 2, 4, 5)
        edged = _edged(total, (rows * side, columns * side), corner)
        blocks.copy_(edged.view(blocks.shape))
        return out

    def end(self, blocks: Tensor, bias: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The filled pictures, B×H×W×3 bytes, and whether each one's logits are finite.

        `blocks` are the logits without their bias of 3 in float32, B×H/N×W/N×(N·N·3), in the order
        of rows, columns and colours within each block; `pixels` as in `begin`, 255 in the hole.
        """
        return composite(unblocked(blocks).float() + bias, pixels)


def unblocked(blocks: Tensor) -> Tensor:
    """B×H/N×W/N×(N·N·3) to B×H×W×3."""
    batch, rows, columns, count = blocks.shape
    side = round((count // 3) ** 0.5)
    # B, H/N, W/N, N, N, 3 -> B, H/N, N, W/N, N, 3
    parts = blocks.reshape(batch, rows, columns, side, side, 3).permute(0, 1, 3, 2, 4, 5)
    return parts.reshape(batch, rows * side, columns * side, 3)


def interleaved(even: Tensor, odd: Tensor) -> Tensor:
    """Even and odd rows with pairs of columns, B×H/2×W/2×2·C each, to B×H×W×C."""
    batch, rows, columns, channels = even.shape
    # B, H/2, W/2, 2·C -> B, H/2, 2, W/2, 2·C
    both = torch.stack([even, odd], dim=2)
    return both.reshape(batch, 2 * rows, 2 * columns, channels // 2)


def _side(channels: int, out: Tensor) -> int:
    """The side of the blocks of pixels in `out`, of a map with so many channels."""
    return 1 if out.shape[3] == channels else 2


def _edged(x: Tensor, size: Sequence[int], corner: tuple[int, int]) -> Tensor:
    rows, columns = (
        _reflected(torch.arange(many, device=x.device) - before, there)
        for many, before, there in zip(size, corner[::-1], x.shape[1:3], strict=True)
    )
    return x[:, rows][:, :, columns]


def _reflected(indices: Tensor, size: int) -> Tensor:
    indices = indices.abs()
    return torch.where(indices < size, indices, 2 * size - 2 - indices)


class _Map(ctypes.Structure):
    """A tensor for the kernels; strides in groups."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("image", ctypes.c_longlong),
        ("row", ctypes.c_longlong),
        ("pixel", ctypes.c_longlong),
    )

    @classmethod
    def of(cls, tensor: Tensor | None, length: int) -> _Map:
        if tensor is None:
            return cls(None, 0, 0, 0)
        *strides, channel = tensor.stride()
        assert channel == 1, tensor.stride()
        assert not any(stride % length for stride in strides), tensor.stride()
        return cls(tensor.data_ptr(), *(stride // length for stride in strides))


class CudaKernels(Kernels):
    """The kernels in CUDA. Raises RuntimeError or OSError if they cannot be compiled."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._length = group_length(dtype)
        self._begin, self._finish, self._end = kernels(
            source(dtype), ("begin", "finish", "end"), device
        )

    def begin(self, pixels: Tensor, out: Tensor, corner: tuple[int, int]) -> Tensor:
        batch, height, width, _ = pixels.shape
        _, rows, columns, _ = out.shape
        assert pixels.is_contiguous()
        assert out.is_contiguous()
        arguments = [*pointers(pixels, out), *numbers_of(height, width, rows, columns, *corner)]
        self._begin((columns, rows, batch), arguments)
        return out

    def finish(
        self,
        given: Tensor,
        out: Tensor,
        terms: Terms,
        corner: tuple[int, int] = (0, 0),
        odd: Tensor | None = None,
    ) -> Tensor:
        batch, height, width, channels = given.shape
        if odd is not None:
            height, width, channels = 2 * height, 2 * width, channels // 2
        side = _side(channels, out)
        rows, columns = side * out.shape[1], side * out.shape[2]
        groups = channels // self._length
        tensors = (given, odd, terms.plus, terms.onto, out)
        maps = [_Map.of(tensor, self._length) for tensor in tensors]
        numbers = numbers_of(height, width, groups, rows, columns, *corner, side)
        self._finish((columns * groups, rows, batch), [*maps, *pointers(terms.bias), *numbers])
        return out

    def end(self, blocks: Tensor, bias: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        batch, height, width, _ = pixels.shape
        assert blocks.is_contiguous()
        assert pixels.is_contiguous()
        filled = torch.empty((batch, height, width, 3), dtype=torch.uint8, device=pixels.device)
        finite = torch.ones(batch, dtype=torch.bool, device=pixels.device)
        side = height // blocks.shape[1]
        tensors = pointers(blocks, bias, pixels, filled, finite)
        self._end((width, height, batch), [*tensors, *numbers_of(height, width, side)])
        return filled, finite
