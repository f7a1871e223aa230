"""Rounds weights to half precision so that the errors of a kernel cancel out.

Neighbouring pixels of a feature map are similar, so a kernel's output follows the sum of its taps.
If each tap is rounded by itself, the errors add up at random. Here each tap takes over the rounding
error of those before it, and the sum stays exact to half a step of the last tap. That costs nothing
when pictures are filled; benchmarks/README.md has the gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from .folding import Affine, FoldedGenerator, FoldedLayer

#: One axis of a transposed convolution's kernel: the taps of each output pixel. With a stride of 2
#: the odd pixels have two taps, the even ones have one.
_PARITIES = (slice(0, None, 2), slice(1, None, 2))


def rounded(folded: FoldedGenerator, dtype: torch.dtype) -> FoldedGenerator:
    """The generator with kernels of several pixels in values that `dtype` holds, as float32."""
    if dtype.itemsize > 2:
        return folded

    def several(affines: Sequence[Affine]) -> list[Affine]:
        return [_kernel(affine, dtype) for affine in affines]

    return FoldedGenerator(
        stem=_kernel(folded.stem, dtype),
        downs=several(folded.downs),
        to_local=_kernel(folded.to_local, dtype),
        to_global=_kernel(folded.to_global, dtype),
        blocks=[(_layer(first, dtype), _layer(second, dtype)) for first, second in folded.blocks],
        ups=[_transposed(affine, dtype) for affine in folded.ups],
        last=_kernel(folded.last, dtype),
    )


def _layer(layer: FoldedLayer, dtype: torch.dtype) -> FoldedLayer:
    kernels = {field.name: _kernel(getattr(layer, field.name), dtype) for field in fields(layer)}
    return replace(layer, **kernels)


def _kernel(affine: Affine, dtype: torch.dtype) -> Affine:
    """A rounded convolution; a kernel of one pixel has nothing to cancel, and `Conv` rounds it."""
    if affine.weight[0, 0].numel() == 1:
        return affine
    return Affine(_diffused(affine.weight, dtype), affine.bias)


def _transposed(affine: Affine, dtype: torch.dtype) -> Affine:
    weight = affine.weight.clone()
    for rows in _PARITIES:
        for columns in _PARITIES:
            weight[:, :, rows, columns] = _diffused(weight[:, :, rows, columns], dtype)
    return Affine(weight, affine.bias)


def _diffused(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Taps in the order of reading, each with the error of those before it: M×N×k×k'."""
    taps = weight.flatten(2).clone()
    carry = torch.zeros_like(taps[..., 0])
    for i in range(taps.shape[-1]):
        wanted = taps[..., i] + carry
        taps[..., i] = wanted.to(dtype).float()
        # A tap that is infinite in `dtype` must not make its neighbours infinite.
        carry = (wanted - taps[..., i]).nan_to_num(0, 0, 0)
    return taps.view(weight.shape)
