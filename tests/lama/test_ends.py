"""The first and the last step of a batch: kernels do what torch's operations do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from lama.engine import ends
from lama.engine.ends import CudaEnds, Ends, Place, Places, ends_for, require_same, whole
from lama.engine.engine import as_pixels
from lama.engine.nvrtc import MOST_ROWS
from tests.lama import tiny
from tests.lama.emulated import emulate, needs_compiler

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CPU = torch.device("cpu")
HEIGHT, WIDTH = 24, 40
PADDING = (3, 4, 5, 6)
KEPT = HEIGHT - 8, WIDTH - 10


def darker(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Stands for the network: of its input, and not finite for the second picture."""
    finite = torch.arange(len(pixels), device=pixels.device) != 1
    return pixels[..., :3] // 2 + pixels[..., 3:] // 3, finite


def places(sizes, device: torch.device = CPU, is_bgr: bool = True) -> Places:
    """Columns of wider canvases, whose results are of these sizes."""
    random = torch.Generator().manual_seed(len(sizes))
    found = []
    for index, size in enumerate(sizes):
        picture, mask = (
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=random).to(device)
            for shape in ((HEIGHT, WIDTH + 8 * index, 3), (HEIGHT, WIDTH + 8 * index))
        )
        result = torch.zeros(3 * size[0] * size[1], dtype=torch.uint8, device=device)
        columns = slice(8 * index, None)
        found.append(Place(picture[:, columns], mask[:, columns], result, size, PADDING))
    return Places(
        found, 127, torch.full((len(sizes),), 9, dtype=torch.uint8, device=device), is_bgr
    )


def run(some: Ends, batch: Places) -> list[np.ndarray]:
    """The results, and the flags."""
    found = some.run(darker, batch.size, some.given(batch).to(batch.flags.device))
    some.take(batch, found)
    results = [
        place.result.cpu().numpy().reshape(*place.size, 3).astype(int) for place in batch.pictures
    ]
    return [*results, batch.flags.cpu().numpy()]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> CudaEnds:
    emulate(monkeypatch)
    return CudaEnds(CPU)


@needs_compiler
@pytest.mark.parametrize("is_bgr", [True, False])
def test_where_nothing_is_resized_every_byte_is_the_same(kernels: CudaEnds, is_bgr: bool) -> None:
    sizes = [KEPT] * 3
    found, expected = (run(some, places(sizes, is_bgr=is_bgr)) for some in (kernels, Ends()))
    assert expected[-1].tolist() == [1, 0, 1]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


@needs_compiler
def test_results_are_resized_within_a_level_of_opencv(kernels: CudaEnds) -> None:
    sizes = [(73, 55), (5, 90), (1, 1), (16, 31), (400, 3), (2, 700)]
    found, expected = (run(some, places(sizes)) for some in (kernels, Ends()))
    plain = run(Ends(), places([KEPT] * len(sizes)))
    for one, other, small, size in zip(found, expected, plain, sizes, strict=False):
        by_opencv = cv2.resize(small.astype(np.uint8), size[::-1], interpolation=cv2.INTER_LINEAR)
        for wanted in (other, by_opencv.reshape(*size, 3)):
            assert np.abs(one - wanted).max() <= 1


@needs_compiler
def test_a_picture_with_more_rows_than_a_grid_can_have(kernels: CudaEnds) -> None:
    rows = MOST_ROWS + 100
    pixels = torch.randint(0, 256, (1, rows, 2, 4), dtype=torch.uint8)
    pixels[..., 3] = torch.where(pixels[..., 3] > 128, 255, 0)
    pixels[..., :3].masked_fill_(pixels[..., 3:] > 0, 0)
    seen = []

    def paint(given: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(given)
        return given[..., :3], torch.ones(1, dtype=torch.bool)

    batch, filled = whole(pixels)
    kernels.run(paint, batch.size, kernels.given(batch))
    assert torch.equal(seen[0], pixels)
    assert torch.equal(filled, pixels[..., :3])


@needs_compiler
def test_a_recording_is_given_addresses_only(kernels: CudaEnds) -> None:
    table = kernels.given(places([KEPT] * 4))
    assert table.dtype == torch.int64
    assert len(table) == 4
    assert table.nbytes < 1024


def test_places_of_whole_pictures_are_what_the_network_reads() -> None:
    picture, hole = tiny.picture(HEIGHT, WIDTH), tiny.box_mask(HEIGHT, WIDTH) > 0
    pixels = as_pixels(picture[None], hole[None])
    batch, filled = whole(pixels)
    assert torch.equal(Ends().given(batch), pixels)
    Ends().take(batch, darker(pixels))
    assert torch.equal(filled, darker(pixels)[0])


class Wrong(Ends):
    """Kernels that do something else."""

    def take(self, places: Places, found) -> None:
        super().take(replace(places, is_bgr=False), found)


class Forgetful(Ends):
    """Kernels that leave the flags as they are."""

    def take(self, places: Places, found) -> None:
        super().take(replace(places, flags=places.flags.clone()), found)


@pytest.mark.parametrize("kind", [Wrong, Forgetful])
def test_kernels_that_do_something_else_are_seen(kind: type[Ends]) -> None:
    with pytest.raises(RuntimeError, match="do not do what they should"):
        require_same(kind(), Ends(), CPU)
    require_same(Ends(), Ends(), CPU)


@pytest.mark.parametrize(
    "error",
    [
        OSError("libnvrtc.so.13 is not there"),
        RuntimeError("cuLaunchKernel failed with status 700\nand more"),
        AttributeError("undefined symbol: nvrtcGetCUBIN"),
    ],
)
def test_without_kernels_torch_does_both_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ends, "kernels", fail)
    assert type(ends_for(CPU)) is Ends
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(error).splitlines()[0] in line
    assert "and more" not in line


@needs_cuda
@pytest.mark.parametrize("is_bgr", [True, False])
def test_a_gpu_does_what_torch_does(is_bgr: bool) -> None:
    device = torch.device("cuda")
    kernels = CudaEnds(device)
    for sizes in itertools.chain([[KEPT] * 3], [[(73, 55), (5, 90), (400, 3)]]):
        most = int(sizes[0] != KEPT)
        found, expected = (run(some, places(sizes, device, is_bgr)) for some in (kernels, Ends()))
        for one, other in zip(found, expected, strict=True):
            assert np.abs(one.astype(int) - other).max() <= most
