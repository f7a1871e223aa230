"""The decoder on windows of a grid gives what the whole decoder gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lama.engine import gathered
from lama.engine.engine import as_pixels
from lama.engine.folding import fold
from lama.engine.fused import FusedNetwork
from lama.engine.gathered import COUNTS, Gathered, cells_with, rounded_count
from lama.engine.kernels import Kernels
from tests.lama import tiny

CPU = torch.device("cpu")
SIZES = [(88, 88), (104, 200), (192, 320)]


@pytest.fixture(scope="module")
def network() -> FusedNetwork:
    return FusedNetwork(fold(tiny.tiny_model(ngf=16).generator), CPU, torch.float32, Kernels())


def holes(kind: str, batch: int, height: int, width: int) -> np.ndarray:
    """bool B×H×W"""
    random = np.random.default_rng(height + width)
    hole = np.zeros((batch, height, width), bool)
    if kind == "everywhere":
        hole[:] = True
    elif kind == "corners":
        hole[0, 0, 0] = hole[-1, -1, -1] = hole[0, 0, -1] = hole[-1, -1, 0] = True
    elif kind == "edges of cells":
        hole[:, 63::64] = hole[:, :, 64::64] = True
    elif kind == "text":
        for one in hole:
            top, left = random.integers(0, height - 12), random.integers(0, width - 40)
            one[top : top + 12, left : left + 40] = True
    return hole


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["nothing", "everywhere", "corners", "edges of cells", "text"])
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_what_is_painted_is_the_same(network, kind, size, batch) -> None:
    pictures = np.stack([tiny.picture(*size, seed=i) for i in range(batch)])
    hole = holes(kind, batch, *size)
    pixels = as_pixels(pictures, hole)
    cells = sum(cells_with(one, network.unit) for one in hole)
    expected, finite = network.paint(pixels)
    # As many as there are, and with some to spare
    for count in {max(1, cells), cells + 5, 64}:
        found, also = network.paint(pixels, count)
        assert torch.equal(also, finite)
        assert torch.equal(found, expected)


@torch.no_grad()
def test_logits_in_windows_are_those_of_the_whole(network) -> None:
    pixels = as_pixels(tiny.picture(104, 200)[None], holes("everywhere", 1, 104, 200))
    cells = cells_with(holes("everywhere", 1, 104, 200)[0], 8)
    torch.testing.assert_close(network._run(pixels, cells), network._run(pixels), rtol=0, atol=1e-5)


@torch.no_grad()
def test_only_windows_with_holes_are_decoded(network, monkeypatch) -> None:
    decoded = []
    decode = network._decode
    monkeypatch.setattr(network, "_decode", lambda x: (decoded.append(x.shape), decode(x))[1])
    hole = holes("text", 1, 192, 320)
    blocks = network._run(as_pixels(tiny.picture(192, 320)[None], hole), 4)
    assert [tuple(shape) for shape in decoded] == [(4, 11, 11, 128)]
    cells = blocks[0].view(3, 16, 5, 16, -1).abs().amax(dim=(1, 3, 4)) > 0
    assert int(cells.sum()) == cells_with(hole[0], 8) + (not hole[0, :64, :64].any())


@torch.no_grad()
def test_what_is_not_finite_in_a_window_is_seen_and_only_there(network) -> None:
    pictures, hole = np.stack([tiny.picture(96, 128)] * 2), holes("nothing", 2, 96, 128)
    hole[0, 70:80, 70:80] = True
    pixels = as_pixels(pictures, hole)
    gather = Gathered(pixels, 2, 8)
    decoded = torch.ones(2, 22, 22, 48)
    decoded[0, 15, 10, 3] = torch.nan
    _, finite = Kernels().end(gather.spread(decoded), torch.zeros(3), pixels)
    assert finite.tolist() == [False, True]
    decoded = torch.ones(2, 22, 22, 48)
    decoded[0, 0, 0, 3] = torch.inf  # in the context only
    _, finite = Kernels().end(gather.spread(decoded), torch.zeros(3), pixels)
    assert finite.tolist() == [True, True]


@pytest.mark.parametrize("size", [*SIZES, (16, 24), (864, 1504)])
def test_host_and_device_count_the_same_cells(size) -> None:
    random = np.random.default_rng(1)
    for share in (0, 0.0001, 0.01, 1):
        hole = random.random(size) < share
        height, width = (-(-side // 64) for side in size)
        marked = gathered._marked(torch.from_numpy(hole).byte()[None], height, width, 64)
        assert int(marked.sum()) == cells_with(hole, 8)
        # A part of a larger mask too
        assert cells_with(np.pad(hole, 8)[8:-8, 8:-8], 8) == cells_with(hole, 8)


@pytest.mark.parametrize(
    ("cells", "batch", "side", "count"),
    [
        (0, 4, 128, 64),
        (64, 4, 128, 64),
        (65, 4, 128, 128),
        (256, 4, 128, 256),
        (257, 4, 128, 0),  # 512 windows have 94 % of all units
        (257, 8, 128, 512),
        (600, 8, 128, 0),
        (1, 1, 128, 64),
        (65, 1, 128, 0),
        (1, 1, 64, 0),
        (1, 500, 10, 0),  # smaller than a window
    ],
)
def test_so_many_windows_that_they_are_cheaper(cells, batch, side, count) -> None:
    assert rounded_count(cells, batch, side, side) == count
    assert count == 0 or count in COUNTS
