"""Windows around holes that a device fills give what they give on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lama import regions, staged
from lama.engine import Engine
from lama.engine.frequent import OFTEN
from lama.engine.precision import Precision
from lama.inference import batch_inference, engine_of
from lama.regions import Padding, Parts, inpaint
from lama.saicinpainting.training.trainers import InpaintingModel
from lama.staged import BLOCKS, StagedInference
from tests.lama import tiny
from tests.lama.emulated import KINDS, as_on_a_gpu
from tests.lama.late_device import LateDevice
from tests.lama.test_half_precision import overflowing_model

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CANVAS = 384, 512
NOTHING: Padding = (0, 0, 0, 0)
PADDINGS: list[Padding] = [NOTHING, (30, 0, 30, 0), (0, 100, 0, 60)]


@pytest.fixture
def model() -> InpaintingModel:
    return tiny.tiny_model()


@pytest.fixture(params=KINDS)
def engine(
    model: InpaintingModel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    """The model's engine, made to do what a GPU does."""
    return as_on_a_gpu(model, request.param, monkeypatch)


def page(seed: int, *holes: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a plane on its right, and holes (top, left, height, width)."""
    picture = tiny.picture(*CANVAS, seed=seed)
    picture[:, 400:] = (200, 180, 160)
    mask = np.zeros(CANVAS, np.uint8)
    for top, left, height, width in holes:
        mask[top : top + height, left : left + width] = 255
    return picture, mask


#: Windows of several sizes; a hole in a plane; cores that overlap; a hole in the padding.
PAGES = [
    page(1, (60, 60, 20, 30), (300, 250, 30, 20), (200, 450, 10, 10)),
    page(2, (180, 20, 8, 300), (60, 100, 200, 10), (5, 300, 6, 9)),
    page(3, (100, 110, 60, 40), (330, 330, 20, 20)),
]


def windows(model, device: LateDevice, threshold: int = 0) -> StagedInference:
    return StagedInference(model, "cpu", False, threshold, 3, CANVAS[0] * CANVAS[1], device, "mask")


def launch(inference: StagedInference, pages, paddings: Sequence[Padding] = PADDINGS) -> list:
    there = []
    for (picture, mask), padding in zip(pages, paddings, strict=False):
        arrays = inference.place(picture.shape), inference.place(mask.shape)
        for array, pixels in zip(arrays, (picture, mask), strict=True):
            array[...] = pixels
        there.append(inference.stage(*arrays, padding, CANVAS))
    return inference.fill(there)


def expected(model, pages, paddings: Sequence[Padding] = PADDINGS, threshold=0) -> list[np.ndarray]:
    def fill(images, holes):
        return batch_inference(images, holes, model, {}, "cpu", False, threshold)

    pictures, masks = zip(*pages, strict=True)
    return inpaint(fill, pictures, masks, "mask", paddings[: len(pages)], threshold)


@pytest.mark.parametrize("threshold", [0, 200])
def test_batches_in_flight_at_once_have_the_hosts_pixels(
    model, engine: Engine, threshold: int
) -> None:
    device = LateDevice()
    inference = windows(model, device, threshold)
    batches = [PAGES, PAGES[1:], PAGES[::-1]]
    arriving = [launch(inference, batch) for batch in batches]
    assert not any(entry.startswith("host waits") for entry in device.log)
    for batch, started in zip(batches, arriving, strict=True):
        wanted = expected(model, batch, threshold=threshold)
        for one, other in zip(started, wanted, strict=True):
            assert np.array_equal(one.result(), other)


def test_a_picture_crosses_the_bus_in_two_copies_and_only_what_is_filled_comes_back(
    model, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, copied = LateDevice(), []
    copy = device.copy
    monkeypatch.setattr(device, "copy", lambda *given: (copied.append(len(given[0])), copy(*given)))
    parts = list(Parts(*zip(PAGES[0], strict=True), "mask"))
    areas = sum(mask.size for part in parts for mask in part.masks)
    (arriving,) = launch(windows(model, device), PAGES[:1])
    assert copied == [3 * areas, areas, 2, 3 * (20 * 30 + 30 * 20)]
    arriving.result()


def test_pinned_memory_suffices_for_batches_in_flight(model) -> None:
    device = LateDevice()
    inference = windows(model, device)
    assert BLOCKS * 3 * CANVAS[0] * CANVAS[1] * 3 <= device.asked_for[0]
    arriving = [launch(inference, PAGES) for _ in range(3)]
    assert inference._transfers._pinned.missed == 0
    assert arriving


def test_what_is_all_planes_needs_no_device(model, monkeypatch: pytest.MonkeyPatch) -> None:
    device = LateDevice()
    inference = windows(model, device)
    pages = [page(1, (50, 450, 20, 20)), PAGES[0], page(2, (70, 430, 10, 40))]
    arriving = launch(inference, pages)
    for one, other in zip(arriving, expected(model, pages), strict=True):
        assert np.array_equal(one.result(), other)
    device.log.clear()
    (alone,) = launch(inference, pages[:1])
    assert np.array_equal(alone.result(), expected(model, pages[:1])[0])
    assert device.log == []


def test_what_the_device_is_not_made_for_takes_the_way_of_the_host(
    model, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = windows(model, LateDevice(), 127)
    picture, mask = PAGES[0]
    assert inference.stage(picture, mask, NOTHING, CANVAS) is not None
    assert inference.stage(picture, np.full_like(mask, 127), NOTHING, CANVAS) is None
    # A window that is a whole side, which is no multiple of the network's unit.
    small = picture[:100, :100], mask[:100, :100]
    assert inference.stage(*small, NOTHING, (100, 100)) is None
    # Several windows for one hole: each sees the fills of those before.
    monkeypatch.setattr(regions.windows, "LONGEST_SIDE", 256)
    assert inference.stage(*page(1, (100, 10, 20, 300)), NOTHING, CANVAS) is None

    def no_memory(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inference._transfers, "upload", no_memory)
    assert inference.stage(picture, mask, NOTHING, CANVAS) is None


def test_more_windows_than_are_computed_at_once_are_several_batches(
    model, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expected(model, PAGES)
    for module in (regions, staged):
        monkeypatch.setattr(module, "MOST_AT_ONCE", 1)
    computed = []
    paint = engine.network.paint
    monkeypatch.setattr(
        engine.network, "paint", lambda pixels: (computed.append(len(pixels)), paint(pixels))[1]
    )
    started = launch(windows(model, LateDevice()), PAGES)
    assert set(computed) == {1}
    for one, other in zip(started, wanted, strict=True):
        assert np.array_equal(one.result(), other)


def test_numbers_of_windows_that_occur_often_are_recorded_meanwhile(model, engine: Engine) -> None:
    inference = windows(model, LateDevice())
    waiting: list = []
    inference._frequent._start = waiting.append
    alike = [page(seed, (180, 100, 10, 10)) for seed in range(3)]
    wanted = expected(model, alike, [NOTHING] * 3)
    for number in range(OFTEN + 2):
        for one, other in zip(launch(inference, alike, [NOTHING] * 3), wanted, strict=True):
            assert np.array_equal(one.result(), other)
        if number == OFTEN - 1:
            waiting.pop()()
    recorded = sorted(size[0] for size in engine._painter.recorded)
    assert recorded == [1, 2]
    assert not waiting


def test_windows_that_overflow_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        staged, "decide", lambda device, use_fp16: Precision(torch.float16, "a test")
    )
    model = overflowing_model()
    pages = [(picture.copy(), mask) for picture, mask in PAGES]
    for picture, _ in pages:
        picture[:] = 0
        picture[::2] = 1  # not a plane
    pages[1][0][:200] = 255
    pages[1][0][:200:2] = 250
    inference = windows(model, LateDevice())
    engine_of(model, "cpu", torch.float16)._by_windows = False
    results = [one.result() for one in launch(inference, pages)]
    assert 0 < engine_of(model, "cpu", torch.float16).half_fallbacks < 8
    for one, other in zip(results, expected(model, pages), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 2


def test_weights_that_give_nothing_finite_are_an_error_of_the_picture(model) -> None:
    model.generator.model[1].ffc.convl2l.weight.fill_(torch.nan)
    pages = [PAGES[0], page(1, (50, 450, 20, 20))]
    broken, plane = launch(windows(model, LateDevice()), pages)
    with pytest.raises(FloatingPointError, match="use other weights"):
        broken.result()
    assert plane.result().shape == (*CANVAS, 3)


@needs_cuda
@pytest.mark.parametrize("use_fp16", [False, True])
def test_a_gpu_records_windows_while_it_is_given_others(use_fp16: bool, caplog) -> None:
    here, there = tiny.tiny_model(), tiny.tiny_model().cuda()
    inference = StagedInference(there, "cuda", use_fp16, 0, 3, CANVAS[0] * CANVAS[1], region="mask")
    wanted = expected(here, PAGES)
    for _ in range(20 * OFTEN):
        for one, other in zip(launch(inference, PAGES), wanted, strict=True):
            assert np.abs(one.result().astype(int) - other).max() <= 2 + use_fp16
    assert "no CUDA graph" not in caplog.text
    assert "not prepared" not in caplog.text
