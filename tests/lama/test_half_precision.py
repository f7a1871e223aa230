"""Half precision: close to float32, and never a broken picture."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from benchmarks import subjects
from lama import inference
from lama.engine.folding import fold
from lama.engine.precision import Precision
from lama.engine.rounding import rounded
from lama.inference import batch_inference, engine_of, load_lama_model
from lama.saicinpainting.training.modules.precision import exact_float32, half_dtype
from tests.lama import tiny

needs_bfloat16 = pytest.mark.skipif(
    half_dtype("cpu") != torch.bfloat16, reason="this processor doesn't multiply bfloat16"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def float16_on_cpu(monkeypatch):
    """float16, whose range is small, stands for CUDA's."""
    chosen = Precision(torch.float16, "for a test")
    monkeypatch.setattr(inference, "decide", lambda device, use_fp16: chosen)


def overflowing_model():
    """Overflows float16 behind the stem where the picture is bright, not where it is black."""
    model = tiny.tiny_model()
    model.generator.model[1].ffc.convl2l.weight[:, :3].mul_(3e5).clamp_(-6e4, 6e4)
    return model


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.bfloat16, marks=needs_bfloat16), torch.float16]
)
@pytest.mark.parametrize(("name", "index"), tiny.SAMPLES)
def test_half_precision_stays_within_50_decibels_of_the_original(golden_models, name, index, dtype):
    sample = tiny.golden_sample(name, index)
    predicted = tiny.engine_output(golden_models[name], sample["image"], sample["mask"], dtype)
    assert tiny.decibels(predicted, sample["predicted"], sample["mask"] > 0) >= 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_kernels_keep_the_sum_of_the_taps_that_work_together(dtype):
    folded = fold(tiny.tiny_model().generator)
    kernels = rounded(folded, dtype)
    for before, after in zip([folded.stem, *folded.ups], [kernels.stem, *kernels.ups], strict=True):
        assert torch.equal(after.weight.to(dtype).float(), after.weight)
        # Of a transposed convolution every second tap, from 0 on, leads to the same pixel.
        step = 1 if before is folded.stem else 2
        taps, rounded_taps = (one.weight[..., ::step, ::step] for one in (before, after))
        error = (rounded_taps.sum((2, 3)) - taps.sum((2, 3))).abs()
        plain = (taps.to(dtype).float().sum((2, 3)) - taps.sum((2, 3))).abs()
        # Half a step of the last tap, which also bears the error of those before it.
        step_size = 2 * torch.finfo(dtype).eps * taps.abs().amax((2, 3))
        assert bool((error <= step_size / 2 + 1e-7).all())
        assert float(error.mean()) < float(plain.mean())


@needs_bfloat16
def test_the_shipped_weights_lose_little_in_half_precision():
    model = subjects.model("shipped")
    pictures, holes = subjects.pictures(6, 192, 192), subjects.holes("text", 6, 192, 192)
    half, exact = (
        np.stack(engine_of(model, "cpu", dtype).fill(pictures, holes)).astype(np.float32) / 255
        for dtype in (torch.bfloat16, torch.float32)
    )
    for one, other, hole in zip(half, exact, holes, strict=True):
        assert subjects.decibels(one, other, hole) >= 45


@needs_bfloat16
def test_use_fp16_fills_the_same_hole_on_a_cpu(golden_models, monkeypatch):
    monkeypatch.setattr(inference, "decide", lambda device, use_fp16: Precision(
        torch.bfloat16 if use_fp16 else torch.float32, "for a test"
    ))  # fmt: skip
    sample = tiny.golden_sample("blocks9-ngf8", 1)
    arguments = ([sample["image"]], [sample["mask"]], golden_models["blocks9-ngf8"], {}, "cpu")
    (half,), (exact,) = (batch_inference(*arguments, use_fp16) for use_fp16 in (True, False))
    hole = sample["mask"] > 0
    assert np.array_equal(half[~hole], sample["image"][~hole])
    assert np.abs(half.astype(int) - exact).max() <= 2


def test_an_overflow_is_computed_again_in_float32(float16_on_cpu, caplog):
    model = overflowing_model()
    image, mask = np.full((24, 24, 3), 255, np.uint8), tiny.box_mask(24, 24)
    with caplog.at_level(logging.WARNING):
        (result,) = batch_inference([image], [mask], model, {}, "cpu", True)
    assert engine_of(model, "cpu", torch.float16).half_fallbacks == 1
    assert "1 of 1 pictures overflowed in torch.float16" in caplog.text
    exact = model.predict(**tiny.as_batch((image, mask)))
    expected = (tiny.as_picture(exact[0]) * 255).round().astype(np.uint8)
    assert np.array_equal(result[mask > 0], expected[mask > 0])


@pytest.mark.parametrize("whole", [False, True])
def test_only_the_pictures_that_overflow_are_computed_again(monkeypatch, whole):
    model = overflowing_model()
    mask = tiny.box_mask(24, 24)
    black, bright = np.zeros((24, 24, 3), np.uint8), np.full((24, 24, 3), 255, np.uint8)
    engine = engine_of(model, "cpu", torch.float16)
    if whole:
        # What CUDA does with a batch
        monkeypatch.setattr(engine, "_by_windows", False)
    pictures, holes = np.stack([black, bright, black]), np.stack([mask > 0] * 3)
    results = engine.fill(pictures, holes)
    assert engine.half_fallbacks == 1
    (exact,) = batch_inference([bright], [mask], model, {}, "cpu", False)
    assert np.array_equal(results[1], exact)
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("whole", [False, True])
def test_half_precision_is_given_up_when_every_picture_of_some_batches_overflows(
    monkeypatch, caplog, whole
):
    model, mask = overflowing_model(), tiny.box_mask(24, 24)
    black, bright = np.zeros((24, 24, 3), np.uint8), np.full((24, 24, 3), 255, np.uint8)
    engine = engine_of(model, "cpu", torch.float16)
    monkeypatch.setattr(engine, "_by_windows", not whole)
    engine.prepare(1, 24, 24)

    def fill(picture):
        return engine.fill(picture[None], (mask > 0)[None])[0]

    (exact,) = batch_inference([bright], [mask], model, {}, "cpu", False)
    for picture in (bright, bright, black, bright, bright, bright, bright, bright):
        filled = fill(picture)
        if picture is bright:
            assert np.array_equal(filled, exact)
    assert engine.half_fallbacks == 5, "the last two were computed once"
    assert caplog.text.count("from now on torch.float32 is used") == 1


def test_without_an_overflow_nothing_is_counted(float16_on_cpu):
    model = tiny.tiny_model()
    batch_inference([tiny.picture(16, 16)], [tiny.box_mask(16, 16)], model, {}, "cpu", True)
    assert engine_of(model, "cpu", torch.float16).half_fallbacks == 0


def test_the_reference_network_stays_as_it_is(float16_on_cpu):
    model = tiny.tiny_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    batch_inference([tiny.picture(16, 16)], [tiny.box_mask(16, 16)], model, {}, "cpu", True)
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert all(after[key].dtype == tensor.dtype for key, tensor in before.items())


def test_tf32_is_off_inside_and_as_before_outside():
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    with exact_float32():
        assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]
    assert [switch.fp32_precision for switch in switches] == before


def test_tf32_stays_off_until_the_last_thread_is_out():
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    one, other = exact_float32(), exact_float32()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]
    other.__exit__(None, None, None)
    assert [switch.fp32_precision for switch in switches] == before


@needs_cuda
@pytest.mark.parametrize("name", ["blocks2-ngf16", "blocks9-ngf8"])
def test_cuda_agrees_with_the_original_in_both_precisions(name):
    folder = tiny.GOLDEN / name
    model, _ = load_lama_model(folder / "config.yaml", folder / "models" / "best.ckpt", "cuda")
    for index in (i for n, i in tiny.SAMPLES if n == name):
        sample = tiny.golden_sample(name, index)
        pair, hole = (sample["image"], sample["mask"]), sample["mask"] > 0
        exact = tiny.engine_output(model, *pair, torch.float32, "cuda")
        assert np.abs(exact - sample["predicted"]).max() <= 1e-4
        half = tiny.engine_output(model, *pair, torch.float16, "cuda")
        assert tiny.decibels(half, sample["predicted"], hole) >= 50


@needs_cuda
def test_a_batch_on_cuda_gives_what_its_pictures_give_alone():
    model = tiny.tiny_model().cuda()
    images = [tiny.picture(40, 56, seed=i) for i in range(3)]
    masks = [tiny.box_mask(40, 56)] * 3
    for use_fp16 in (False, True):
        together = batch_inference(images, masks, model, {}, "cuda", use_fp16)
        for image, mask, result in zip(images, masks, together, strict=True):
            (alone,) = batch_inference([image], [mask], model, {}, "cuda", use_fp16)
            assert np.abs(alone.astype(int) - result).max() <= 1
