"""Weights lie as oneDNN wants them for each size of picture, and once for each such layout."""

from __future__ import annotations

import ctypes

import pytest
import torch

from lama.engine import layers
from lama.engine.folding import Affine
from lama.engine.layers import Conv, fuses

CPU = torch.device("cpu")
#: Rows of the input: oneDNN lays kernels out otherwise for small maps than for large ones.
SIDES = (8, 24, 128, 32, 8, 64)

pytestmark = pytest.mark.skipif(
    not fuses(CPU, torch.float32), reason="oneDNN's fused primitives are not there"
)
dtypes = pytest.mark.parametrize(
    "dtype",
    [dtype for dtype in (torch.float32, torch.bfloat16) if fuses(CPU, dtype)],
)
kernels = pytest.mark.parametrize("kernel", [(192, 64, 3, 3), (192, 96, 1, 1), (64, 64, 3, 3)])


def affine_of(kernel: tuple[int, ...]) -> Affine:
    numbers = torch.Generator().manual_seed(0)
    return Affine(torch.randn(kernel, generator=numbers), torch.randn(kernel[0], generator=numbers))


def sample(kernel: tuple[int, ...], side: int, dtype: torch.dtype) -> torch.Tensor:
    numbers = torch.Generator().manual_seed(side)
    picture = torch.randn(1, side, side + 8, kernel[1], generator=numbers)
    return picture.permute(0, 3, 1, 2).to(dtype)


def content(packed: torch.Tensor) -> bytes:
    return ctypes.string_at(torch.ops.mkldnn.data_ptr(packed), torch.ops.mkldnn._nbytes(packed))


@dtypes
@kernels
@torch.no_grad()
def test_the_weight_lies_as_onednn_wants_it_for_each_size_whatever_came_before(kernel, dtype):
    affine = affine_of(kernel)
    conv = Conv(affine, CPU, dtype)
    for side in SIDES:
        x = sample(kernel, side, dtype)
        fresh = Conv(affine, CPU, dtype)
        assert content(conv._weight_for(x)) == content(fresh._weight_for(x)), side
        assert torch.equal(conv(x), fresh(x)), side


@dtypes
@kernels
@torch.no_grad()
def test_a_layout_is_kept_once_however_many_sizes_want_it(kernel, dtype):
    conv = Conv(affine_of(kernel), CPU, dtype)
    for side in range(8, 72):
        conv._weight_for(sample(kernel, side, dtype))
    kept = [content(packed) for packed in conv._packings.values()]
    assert len(kept) == len(set(kept))
    assert len(kept) <= 4


@torch.no_grad()
def test_what_is_known_of_layouts_is_bounded(monkeypatch):
    monkeypatch.setattr(layers, "_layouts", {})
    monkeypatch.setattr(layers, "_MOST_LAYOUTS", 5)
    kernel = (64, 64, 3, 3)
    conv = Conv(affine_of(kernel), CPU, torch.float32)
    for side in range(8, 40):
        conv(sample(kernel, side, torch.float32))
        assert len(layers._layouts) <= 5
