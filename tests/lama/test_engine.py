"""The engine computes what the reference network computes, in another order."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
import torch
from torch import nn

from harness.waiting import wait_until
from lama.engine import Engine, fourier, network
from lama.engine.folding import Affine, fold
from lama.engine.layers import Conv
from lama.engine.replay import Recording, Replayed, require_room
from lama.engine.windows import windows
from lama.inference import engine_of
from lama.saicinpainting.training.modules.ffc import FourierUnit
from lama.saicinpainting.training.trainers import InpaintingModel
from tests.lama import tiny

CPU = torch.device("cpu")


def lively_model(**changes) -> InpaintingModel:
    """Random weights, and batch norms that do something."""
    model = tiny.tiny_model(**changes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.8, 1.2)
            module.bias.normal_(0, 0.1)
    return model


def reference(model, image, mask) -> np.ndarray:
    return tiny.as_picture(model.predict(**tiny.as_batch((image, mask)))[0])


@pytest.mark.parametrize("changes", [{}, {"n_downsampling": 2}, {"n_downsampling": 1}, {"ngf": 5}])
def test_float32_agrees_with_the_reference_network(changes):
    model = lively_model(**changes)
    for size in [(16, 16), (24, 40), (40, 24), (88, 72)]:
        image, mask = tiny.picture(*size), tiny.box_mask(*size)
        output = tiny.engine_output(model, image, mask, torch.float32)
        assert np.abs(output - reference(model, image, mask)).max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pictures_of_a_batch_agree_with_the_reference_network(dtype):
    model = lively_model()
    pictures = np.stack([tiny.picture(32, 48, seed=i) for i in range(3)])
    holes = np.stack([tiny.box_mask(32, 48) > 0] * 3)
    engine = engine_of(model, "cpu", dtype)
    engine._by_windows = False  # what CUDA does
    for picture, hole, result in zip(pictures, holes, engine.fill(pictures, holes), strict=True):
        expected = reference(model, picture, hole.astype(np.uint8)) * 255
        assert np.array_equal(result[~hole], picture[~hole])
        assert np.abs(result[hole] - expected[hole]).max() <= (0.51 if dtype.itemsize == 4 else 1)


def test_bands_of_rows_give_what_the_whole_gives(monkeypatch):
    model = lively_model()
    image, mask = tiny.picture(160, 64), tiny.box_mask(160, 64)
    whole = tiny.engine_output(model, image, mask, torch.float32)
    monkeypatch.setattr(network, "_BAND_BYTES", 0)
    assert np.abs(tiny.engine_output(model, image, mask, torch.float32) - whole).max() <= 1e-6


@pytest.mark.parametrize(
    "boxes",
    [
        [(0, 0, 1, 1)],
        [(255, 383, 1, 1)],
        [(0, 0, 256, 384)],
        [(30, 20, 12, 300)],
        [(3, 2, 200, 9), (100, 100, 20, 200), (250, 0, 6, 384)],
    ],
)
def test_windows_hold_all_of_the_hole_and_give_what_the_whole_gives(boxes):
    model = lively_model()
    hole = np.zeros((256, 384), bool)
    for top, left, height, width in boxes:
        hole[top : top + height, left : left + width] = True
    image = tiny.picture(256, 384)
    expected = tiny.engine_output(model, image, hole.astype(np.uint8), torch.float32) * 255
    (result,) = engine_of(model, "cpu", torch.float32).fill(image[None], hole[None])
    assert np.array_equal(result[~hole], image[~hole])
    assert np.abs(result[hole] - expected[hole]).max() <= 0.51


def test_a_small_hole_needs_small_windows_only():
    hole = np.zeros((512, 512), bool)
    hole[200:220, 100:400] = True
    found = windows(hole, 8)
    sizes = [
        (w.rows.stop - w.rows.start) * (w.columns.stop - w.columns.start) / 64**2 for w in found
    ]
    assert sum(sizes) < 0.1


def unit_and_affine(channels: int) -> tuple[FourierUnit, Affine]:
    model = lively_model(ngf=channels // 3)
    unit = model.generator.model[5].conv1.ffc.convg2g.fu
    return unit, fold(model.generator).blocks[0][0].spectrum


@pytest.mark.parametrize(
    "size", [(2, 2), (8, 8), (7, 8), (8, 7), (9, 11), (27, 12), (2, 1024), (1024, 3)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_both_ways_through_the_spectrum_agree_with_the_reference(size, batch):
    unit, affine = unit_and_affine(24)
    x = torch.randn(batch, 24, *size).to(memory_format=torch.channels_last)
    expected = x + unit(x)
    matrices = fourier.Transforms(*size, CPU, torch.float32)
    products = fourier.ByProducts(Conv(fourier.planar(affine), CPU, torch.float32), matrices)
    for way in (fourier.ByFFT(Conv(affine, CPU, torch.float32)), products):
        assert (way(x) - expected).abs().max() <= 1e-5


def test_spectra_stay_in_the_range_of_float16():
    _, affine = unit_and_affine(6)
    affine = Affine(torch.eye(12).view(12, 12, 1, 1), torch.zeros(12))
    # In the reference's scale the lowest frequency is 1300 · sqrt(108 · 188), about 185,000.
    x = torch.full((1, 6, 108, 188), 1300.0).to(memory_format=torch.channels_last)
    matrices = fourier.Transforms(108, 188, CPU, torch.float16)
    conv = Conv(fourier.planar(affine), CPU, torch.float16)
    y = fourier.ByProducts(conv, matrices)(x.half()).float()
    assert (y - 2600).abs().max() <= 10


@pytest.mark.parametrize(("seconds", "chosen"), [((1.0, 0.95), 0), ((1.0, 0.5), 1), ((0.5, 1), 0)])
def test_the_second_way_is_taken_only_where_it_is_clearly_faster(monkeypatch, seconds, chosen):
    ways = [lambda: ["first"], lambda: ["second"]]
    times = dict(zip(("first", "second"), seconds, strict=True))
    monkeypatch.setattr(fourier, "_seconds", lambda unit, sample: times[unit])
    assert fourier._faster(ways, torch.zeros(0)) == chosen


def test_a_size_is_measured_once(monkeypatch):
    measured = []
    faster = fourier._faster
    monkeypatch.setattr(
        fourier, "_faster", lambda *given: (measured.append(given), faster(*given))[1]
    )
    model = tiny.tiny_model()
    for size in [(16, 16), (24, 16), (16, 16), (24, 16)]:
        tiny.engine_output(model, tiny.picture(*size), tiny.box_mask(*size), torch.float32)
    assert len(measured) == 2


def test_many_sizes_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(fourier, "_MOST_SIZES", 2)
    spectra = fourier.Spectra([unit_and_affine(6)[1]], CPU, torch.float32)
    for side in range(2, 8):
        spectra.units((1, side, side))
    assert list(spectra._units) == [(1, 6, 6), (1, 7, 7)]


def test_prepared_sizes_are_replayed_and_others_run_as_they_are(monkeypatch):
    engine = engine_of(lively_model(), "cpu", torch.float32)
    engine._by_windows = False  # what CUDA does, with `run_again` in place of a graph
    replayed = []
    record = engine._painter._paints[0]._record

    def watched(function, given):
        recording = record(function, given)
        replay = lambda: (replayed.append(tuple(given.shape)), recording.replay())  # noqa: E731
        return Recording(recording.given, recording.found, replay)

    engine._painter._paints[0]._record = watched
    engine.prepare(2, 16, 24)
    engine.prepare(2, 16, 24)
    for batch, size in [(2, (16, 24)), (1, (16, 24)), (2, (24, 16)), (2, (16, 24))]:
        pictures = np.stack([tiny.picture(*size, seed=i) for i in range(batch)])
        holes = np.stack([tiny.box_mask(*size) > 0] * batch)
        for picture, hole, result in zip(
            pictures, holes, engine.fill(pictures, holes), strict=True
        ):
            expected = reference(lively_model(), picture, hole.astype(np.uint8)) * 255
            assert np.abs(result[hole] - expected[hole]).max() <= 0.51
            assert np.array_equal(result[~hole], picture[~hole])
    assert replayed == [(2, 16, 24, 4)] * 2


def test_a_size_that_cannot_be_recorded_runs_as_it_is(caplog):
    def fail(function, given):
        raise RuntimeError("CUDA out of memory\nand a long story")

    def sample(size):
        return torch.zeros(size), None

    replayed = Replayed(lambda size, x: (x + 1,), fail, sample, CPU)
    assert not replayed.prepare((2, 1, 1))
    assert replayed((2, 1, 1), torch.zeros(2))[0].tolist() == [1, 1]
    assert "no CUDA graph for (2, 1, 1): CUDA out of memory" in caplog.text


def test_what_a_recording_uses_is_kept_once_and_only_if_there_is_one():
    engine = engine_of(lively_model(), "cpu", torch.float32)
    engine._by_windows = False
    engine.prepare(1, 16, 24)
    engine.prepare(1, 16, 24)
    assert len(engine._painter.recorded) == 1

    def fail(function, given):
        raise RuntimeError("CUDA out of memory")

    engine._painter._paints[0]._record = fail
    engine.prepare(1, 24, 16)
    assert len(engine._painter.recorded) == 1


@pytest.mark.parametrize(
    ("needed", "shared", "free", "fits"),
    [(10, 0, 20, True), (10, 0, 19, False), (10, 10, 10, True), (10, 12, 9, False)],
)
def test_a_graph_leaves_room_for_what_runs_without_one(needed, shared, free, fits):
    with contextlib.nullcontext() if fits else pytest.raises(RuntimeError, match="for good"):
        require_room(needed << 20, shared << 20, free << 20)


def test_pictures_get_through_between_two_sizes_that_are_made_ready():
    engine = engine_of(lively_model(), "cpu", torch.float32)
    engine._by_windows = False
    record, order = engine._painter._paints[0]._record, []
    recording = threading.Event()
    image, hole = tiny.picture(16, 16), tiny.box_mask(16, 16) > 0

    def slow(function, given):
        order.append(given.shape[0])
        recording.set()
        if len(order) == 1:
            wait_until(lambda: len(engine.turns._line) == 2, "a picture waits")
        return record(function, given)

    def fill():
        recording.wait()
        engine.fill(image[None], hole[None])

    def watched(pixels):
        order.append("picture")
        return filled(pixels)

    filled = engine._filled
    engine._filled = watched
    engine._painter._paints[0]._record = slow
    thread = threading.Thread(target=fill)
    thread.start()
    for batch in (3, 2):
        engine.prepare(batch, 16, 16)
    thread.join()
    assert order == [3, "picture", 2]


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
@pytest.mark.parametrize("branch", ["convl2l", "convl2g", "convg2l"])
def test_an_overflow_inside_a_block_is_not_lost_in_a_relu(layer, branch):
    model = lively_model()
    getattr(getattr(model.generator.model[5], layer).ffc, branch).weight.mul_(torch.inf)
    output = tiny.engine_output(model, tiny.picture(32, 32), tiny.box_mask(32, 32), torch.float32)
    assert np.isnan(output).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_a_gpu_recorded_sizes_give_what_others_give(dtype, caplog):
    model = lively_model().cuda()
    plain, recorded = (
        Engine(model.generator, torch.device("cuda"), dtype),
        engine_of(model, "cuda", dtype),
    )
    sizes = [(3, 64, 96), (2, 64, 96), (3, 96, 64)]
    for size in sizes:
        recorded.prepare(*size)
    assert "no CUDA graph" not in caplog.text
    if dtype == torch.float16:  # in float32 some sizes may go through cuFFT, and are not recorded
        assert len(recorded._painter._paints[0]._recordings) == len(sizes)
    for batch, height, width in [*sizes, *reversed(sizes), (1, 64, 64)]:
        pictures = np.stack([tiny.picture(height, width, seed=i) for i in range(batch)])
        holes = np.stack([tiny.box_mask(height, width) > 0] * batch)
        for one, other in zip(
            plain.fill(pictures, holes), recorded.fill(pictures, holes), strict=True
        ):
            assert np.abs(one.astype(int) - other).max() <= 1
    # A graph's own memory stays where it is, in spite of other allocations.
    recorded.check_device()
    assert recorded.fill(pictures, holes)[0].shape == (64, 64, 3)
