"""Long and narrow pictures cost what their area costs, in memory and in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lama.engine import fourier
from lama.engine.fourier import MOST_ALONG, ByFFT, ByProducts, Spectra, Transforms
from lama.engine.windows import windows as decoded_windows
from lama.inference import batch_inference
from lama.regions import Parts
from lama.regions.windows import Ground
from tests.lama import tiny
from tests.lama.test_engine import lively_model, reference, unit_and_affine

CPU = torch.device("cpu")
LONG = MOST_ALONG + 2


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest memory that any tensor has."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                self.nbytes = max(self.nbytes, leaf.untyped_storage().nbytes())
        return found


def largest_tensor(height: int, width: int) -> int:
    """Bytes of the largest tensor of a fill by a network that is new."""
    model, mask = tiny.tiny_model(), np.full((height, width), 255, np.uint8)
    with Largest() as largest:
        batch_inference(
            [tiny.picture(height, width)], [mask], model, tiny.tiny_config(), "cpu", False
        )
    return largest.nbytes


@pytest.mark.parametrize("size", [(2, LONG), (LONG, 2)])
def test_no_matrix_is_made_above_the_longest_side(size, monkeypatch):
    def fail(*given):
        raise AssertionError(f"made or measured: {given}")

    monkeypatch.setattr(fourier, "Transforms", fail)
    monkeypatch.setattr(fourier, "_faster", fail)
    for dtype in (torch.float32, torch.float16):
        units = Spectra([unit_and_affine(6)[1]] * 2, CPU, dtype).units((1, *size))
        assert [type(unit) for unit in units] == [ByFFT, ByFFT]


@pytest.mark.parametrize("size", [(2, LONG), (LONG, 2)])
def test_matrices_above_the_longest_side_are_refused(size):
    with pytest.raises(ValueError, match=f"{size[1]}×{size[0]}"):
        Transforms(*size, CPU, torch.float32)


def test_the_matrices_that_are_kept_have_a_limit_in_bytes(monkeypatch):
    monkeypatch.setattr(fourier, "_faster", lambda ways, sample: 0)  # products, in half precision
    spectra = Spectra([unit_and_affine(6)[1]], CPU, torch.float16)
    most = 3 * Transforms(64, 64, CPU, torch.float16).nbytes
    monkeypatch.setattr(fourier, "_MOST_BYTES", most)
    for side in range(16, 66, 2):
        (unit,) = spectra.units((1, side, side))
        assert isinstance(unit, ByProducts)
        assert 0 < spectra.nbytes <= most
    assert list(spectra._units) == [(1, side, side) for side in (60, 62, 64)]
    spectra.units((1, 256, 256))  # larger than all of it
    assert list(spectra._units) == [(1, 256, 256)]


def test_a_way_that_has_lost_is_not_made_ready_again(monkeypatch):
    made = []

    def watched(*given):
        made.append(given[:2])
        return Transforms(*given)

    monkeypatch.setattr(fourier, "Transforms", watched)
    monkeypatch.setattr(fourier, "_MOST_SIZES", 1)
    monkeypatch.setattr(fourier, "_faster", lambda ways, sample: (ways[1](), 0)[1])
    spectra = Spectra([unit_and_affine(6)[1]], CPU, torch.float32)
    for side in (8, 9, 8, 9):
        assert isinstance(spectra.units((1, side, side))[0], ByFFT)
    assert made == [(8, 8), (9, 9)]


@pytest.mark.parametrize("size", [(8, 12000), (1, 12000), (12000, 8)])
def test_no_tensor_of_a_long_picture_is_much_larger_than_a_squares_of_its_area(size):
    assert largest_tensor(*size) <= 2 * largest_tensor(440, 440)


@pytest.mark.parametrize("size", [(16, 8 * LONG), (8 * LONG, 16)])
def test_a_long_picture_agrees_with_the_reference_network(size):
    model = lively_model()
    image, mask = tiny.picture(*size), tiny.box_mask(*size)
    output = tiny.engine_output(model, image, mask, torch.float32)
    assert np.abs(output - reference(model, image, mask)).max() <= 1e-5


@pytest.mark.parametrize("size", [(16, 40000), (40000, 16)])
def test_every_pixel_of_a_long_hole_is_in_a_window_of_the_decoder(size):
    hole = np.zeros(size, bool)
    hole[::56, ::56] = True
    hole[: size[0] // 3, : size[1] // 3] = True
    covered = np.zeros(size, bool)
    for window in decoded_windows(hole, 8):
        covered[window.target] = True
    assert (covered | ~hole).all()


@pytest.mark.parametrize("size", [(1, 330_000), (330_000, 1)])
def test_the_holes_along_a_strip_are_not_compared_each_with_each(size, monkeypatch):
    made = []
    window = Ground.window

    def watched(self, core, turn=0):
        made.append(core)
        return window(self, core, turn)

    monkeypatch.setattr(Ground, "window", watched)
    mask = np.zeros(size, np.uint8)
    mask[::160, ::160] = 255
    parts = Parts([np.zeros((*size, 3), np.uint8)], [mask], "mask")
    holes = int(np.count_nonzero(mask))
    assert holes > 2000
    for part in parts:
        part.paste([np.full_like(image, 7) for image in part.images])
    assert (parts.filled[0][mask > 0] == 7).all()
    assert len(made) < 100 * holes
