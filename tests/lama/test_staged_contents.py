"""Pages of which the device is shown the content give what they give on the host."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from lama.engine.engine import Engine
from lama.engine.frequent import OFTEN
from lama.inference import batch_inference, engine_of
from lama.padding import without_padding
from lama.regions import Padding, inpaint
from lama.saicinpainting.training.trainers import InpaintingModel
from lama.staged import StagedInference
from tests.lama import tiny
from tests.lama.emulated import KINDS, as_on_a_gpu
from tests.lama.late_device import LateDevice
from tests.lama.test_half_precision import overflowing_model

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CANVAS = 192, 256

#: Padding of pages on the canvas: of three sizes of window, two of them alike.
PADDINGS: list[Padding] = [(0, 100, 0, 100), (70, 0, 70, 0), (0, 120, 0, 80), (0, 0, 0, 0)]


@pytest.fixture
def model() -> InpaintingModel:
    return tiny.tiny_model()


@pytest.fixture(params=KINDS)
def engine(
    model: InpaintingModel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    """The model's engine, made to do what a GPU does."""
    return as_on_a_gpu(model, request.param, monkeypatch)


def pages(count: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pages with holes in the content, across its edge, and in the padding."""
    pictures, masks = [], []
    for index in range(count):
        pictures.append(tiny.picture(*CANVAS, seed=seed + index))
        mask = np.zeros(CANVAS, np.uint8)
        mask[90:110, 90 : 130 + index] = 255
        mask[60:80, 120:140] = 200
        mask[:3, :5] = 255
        masks.append(mask)
    return pictures, masks


def sizes(paddings: Sequence[Padding]) -> list[tuple[int, int]]:
    return [
        (CANVAS[0] - top - bottom, CANVAS[1] - left - right)
        for top, right, bottom, left in paddings
    ]


def expected(model, pictures, masks, paddings, originals, threshold=0) -> list[np.ndarray]:
    def fill(images, holes):
        return batch_inference(images, holes, model, {}, "cpu", False, threshold)

    filled = inpaint(fill, pictures, masks, "content", paddings, threshold)
    return [
        cv2.cvtColor(without_padding(one, padding, size), cv2.COLOR_RGB2BGR)
        for one, padding, size in zip(filled, paddings, originals, strict=True)
    ]


def contents(model, device: LateDevice, threshold: int = 0) -> StagedInference:
    return StagedInference(
        model, "cpu", False, threshold, 4, CANVAS[0] * CANVAS[1], device, "content"
    )


def launch(inference: StagedInference, pictures, masks, paddings, originals) -> list:
    there = []
    for picture, mask, padding, size in zip(pictures, masks, paddings, originals, strict=True):
        arrays = inference.place(picture.shape), inference.place(mask.shape)
        for array, pixels in zip(arrays, (picture, mask), strict=True):
            array[...] = pixels
        there.append(inference.stage(*arrays, padding, size))
    return inference.fill(there)


@pytest.mark.parametrize("threshold", [0, 220])
def test_batches_of_many_sizes_in_flight_at_once_have_the_hosts_pixels(
    model, engine: Engine, threshold: int
) -> None:
    device = LateDevice()
    inference = contents(model, device, threshold)
    batches = [pages(4, seed) for seed in (0, 10, 20)]
    originals = sizes(PADDINGS)
    arriving = [launch(inference, *batch, PADDINGS, originals) for batch in batches]
    assert not any(entry.startswith("host waits") for entry in device.log)
    for batch, started in zip(batches, arriving, strict=True):
        results = [one.result() for one in started]
        wanted = expected(model, *batch, PADDINGS, originals, threshold)
        for result, one in zip(results, wanted, strict=True):
            assert np.array_equal(result, one)


def test_enlarged_results_are_within_a_level(model, engine: Engine) -> None:
    batch, originals = pages(4), [(300, 90), (77, 400), (192, 56), (250, 300)]
    results = [
        one.result() for one in launch(contents(model, LateDevice()), *batch, PADDINGS, originals)
    ]
    wanted = expected(model, *batch, PADDINGS, originals)
    for result, one, size in zip(results, wanted, originals, strict=True):
        assert result.shape == (*size, 3)
        assert np.abs(result.astype(int) - one).max() <= 1


def test_only_the_rows_of_the_content_are_copied_and_only_its_columns_computed(
    model, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = LateDevice()
    copied, computed = [], []
    copy, paint = device.copy, engine.network.paint
    monkeypatch.setattr(
        device, "copy", lambda *given: (copied.append(tuple(given[0].shape)), copy(*given))
    )
    monkeypatch.setattr(
        engine.network,
        "paint",
        lambda pixels: (computed.append(tuple(pixels.shape)), paint(pixels))[1],
    )
    launch(contents(model, device), *pages(2), PADDINGS[:2], sizes(PADDINGS[:2]))
    assert copied[:4] == [(192 * 256 * 3,), (192 * 256,), (128 * 256 * 3,), (128 * 256,)]
    assert computed == [(1, 192, 128, 4), (1, 128, 256, 4)]


def test_what_has_no_hole_in_its_content_or_an_odd_size_takes_the_way_of_the_host(model) -> None:
    inference = contents(model, LateDevice())
    picture, mask = tiny.picture(*CANVAS), np.zeros(CANVAS, np.uint8)
    mask[:60] = 255
    assert inference.stage(picture, mask, (60, 0, 0, 0), (132, 256)) is None
    assert inference.stage(picture, mask, (59, 0, 0, 0), (133, 256)) is not None
    # The window has the whole width, which is no multiple of the network's unit.
    odd = picture[:, :250], mask[:, :250]
    assert inference.stage(*odd, (0, 0, 0, 0), (192, 250)) is None


def test_sizes_that_occur_often_are_recorded_meanwhile(model, engine: Engine) -> None:
    inference = contents(model, LateDevice())
    waiting: list = []
    inference._frequent._start = waiting.append
    batch, paddings = pages(2), [PADDINGS[0], PADDINGS[2]]
    (first, *_), originals = expected(model, *batch, paddings, sizes(paddings)), sizes(paddings)
    for number in range(OFTEN + 2):
        started = launch(inference, *batch, paddings, originals)
        if number == OFTEN - 1:
            assert not engine._painter.recorded
            waiting.pop()()
            assert list(engine._painter.recorded) == [(2, 192, 128, 0)]
        assert np.array_equal(started[0].result(), first)
    assert not waiting


def test_contents_that_overflow_are_computed_again(monkeypatch) -> None:
    from lama import staged
    from lama.engine.precision import Precision

    monkeypatch.setattr(
        staged, "decide", lambda device, use_fp16: Precision(torch.float16, "a test")
    )
    model = overflowing_model()
    batch = [np.full((*CANVAS, 3), 255, np.uint8)] * 2, pages(2)[1]
    originals = sizes(PADDINGS[:2])
    started = launch(contents(model, LateDevice()), *batch, PADDINGS[:2], originals)
    wanted = expected(model, *batch, PADDINGS[:2], originals)
    for one, other in zip(started, wanted, strict=True):
        assert np.abs(one.result().astype(int) - other).max() <= 1
    assert engine_of(model, "cpu", torch.float16).half_fallbacks == 2


@needs_cuda
@pytest.mark.parametrize("use_fp16", [False, True])
def test_a_gpu_records_contents_while_it_is_given_others(use_fp16: bool, caplog) -> None:
    here, there = tiny.tiny_model(), tiny.tiny_model().cuda()
    pixels = CANVAS[0] * CANVAS[1]
    inference = StagedInference(there, "cuda", use_fp16, 0, 4, pixels, region="content")
    batch, originals = pages(4), sizes(PADDINGS)
    wanted = expected(here, *batch, PADDINGS, originals)
    for _ in range(20 * OFTEN):
        for one, other in zip(launch(inference, *batch, PADDINGS, originals), wanted, strict=True):
            assert np.abs(one.result().astype(int) - other).max() <= 2 + use_fp16
    assert "no CUDA graph" not in caplog.text
    assert "not prepared" not in caplog.text
