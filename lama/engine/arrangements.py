"""Convolutions that treat several pixels as one, for maps with few channels.

Matrix units need many channels, but the picture has four and the result three. Neighbouring pixels
treated as one have several times as many, and the numbers stay where they are in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .folding import Affine


def several_columns(affine: Affine, columns: int) -> Affine:
    """A convolution that treats `columns` pixels as one, in its input and in its output.

    out × in × k × k to (columns·out) × (columns·in) × k × k': column j of the result is the
    kernel shifted j to the right. The map is not moved in memory, where pixels are contiguous.
    """
    out, into, height, width = affine.weight.shape
    groups = -(-(width + columns - 1) // columns)
    weight = torch.zeros(columns, out, into, height, groups * columns)
    for j in range(columns):
        weight[j, :, :, :, j : j + width] = affine.weight
    # column out, out, in, k, groups, column in -> column out, out, column in, in, k, groups
    weight = weight.view(columns, out, into, height, groups, columns).permute(0, 1, 5, 2, 3, 4)
    bias = None if affine.bias is None else affine.bias.repeat(columns)
    return Affine(weight.reshape(columns * out, columns * into, height, groups), bias)


def blocks_of_pixels(affine: Affine, size: tuple[int, int]) -> Affine:
    """A convolution with strides `size` that computes a block of pixels as channels.

    out × in × k × k to (rows·columns·out) × in × (k + rows - 1) × (k + columns - 1).
    """
    rows, columns = size
    out, into, height, width = affine.weight.shape
    weight = torch.zeros(rows, columns, out, into, height + rows - 1, width + columns - 1)
    for i in range(rows):
        for j in range(columns):
            weight[i, j, :, :, i : i + height, j : j + width] = affine.weight
    bias = None if affine.bias is None else affine.bias.repeat(rows * columns)
    return Affine(weight.flatten(0, 2), bias)


def up_as_blocks(weight: Tensor) -> Tensor:
    """The generator's transposed convolution as one that computes blocks of 2×2 pixels.

    in × out × 3 × 3 to (2·2·out) × in × 2 × 2. Of pixel i, the even result has the middle of the
    kernel; the odd one has its end, and its start of pixel i + 1.
    """
    into, out = weight.shape[:2]
    blocks = weight.new_zeros(2, 2, out, into, 2, 2)
    # (parity, pixel, place in the kernel)
    taps = ((0, 0, 1), (1, 0, 2), (1, 1, 0))
    for row, below, i in taps:
        for column, right, j in taps:
            blocks[row, column, :, :, below, right] = weight[:, :, i, j].T
    return blocks.flatten(0, 2)


def up_as_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same as two that compute the even and the odd rows, two columns as one pixel.

    in × out × 3 × 3 to (2·out) × in × 1 × 2 and (2·out) × in × 2 × 2. An even row needs one row of
    the map, which saves a quarter of the operations of `up_as_blocks`.
    """
    even, odd = up_as_blocks(weight).chunk(2)
    return even[:, :, :1], odd


def over_blocks(affine: Affine, side: int) -> Affine:
    """The same convolution, for a map whose channels are blocks of `side`×`side` pixels.

    out × in × k × k to out × (side·side·in) × k/side × k/side.
    """
    out, into, height, width = affine.weight.shape
    parts = affine.weight.view(out, into, height // side, side, width // side, side)
    # out, in, k, row, k, column -> out, row, column, in, k, k
    parts = parts.permute(0, 3, 5, 1, 2, 4)
    return Affine(parts.reshape(out, -1, height // side, width // side), affine.bias)
