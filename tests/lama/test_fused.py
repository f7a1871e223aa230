"""The forward pass for GPUs: on a CPU its arithmetic, on a GPU its kernels too."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from benchmarks import subjects
from lama.engine import engine, fourier
from lama.engine.engine import as_pixels
from lama.engine.folding import fold
from lama.engine.fourier import ByProducts, Transforms, planar
from lama.engine.fused import FusedNetwork, fits
from lama.engine.kernels import Kernels
from lama.engine.layers import Conv
from lama.engine.network import Network
from lama.inference import batch_inference, engine_of
from lama.saicinpainting.training.modules.ffc import FourierUnit, inverse
from lama.saicinpainting.training.modules.precision import exact_float32
from tests.lama import tiny
from tests.lama.test_half_precision import overflowing_model

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CPU = torch.device("cpu")


def random_pixels(*shape: int) -> torch.Tensor:
    pixels = torch.randint(0, 256, (*shape, 4), dtype=torch.uint8)
    pixels[..., 3] = torch.where(pixels[..., 3] > 128, 255, 0)
    return pixels


@pytest.mark.parametrize(("name", "index"), tiny.SAMPLES)
@torch.no_grad()
def test_it_paints_what_the_original_paints(golden_models, name, index):
    sample = tiny.golden_sample(name, index)
    folded = fold(golden_models[name].generator)
    network = FusedNetwork(folded, CPU, torch.float32, Kernels())
    pixels = as_pixels(sample["image"][None], (sample["mask"] > 0)[None])
    painted = torch.sigmoid(network.logits(pixels))[0].numpy()
    assert np.abs(painted - sample["predicted"]).max() <= 1e-4
    filled, finite = network.paint(pixels)
    hole = sample["mask"] > 0
    assert finite.tolist() == [True]
    assert np.array_equal(filled[0].numpy()[~hole], sample["image"][~hole])
    expected = np.rint(sample["predicted"] * 255)
    assert np.abs(filled[0].numpy()[hole] - expected[hole]).max() <= 1


@torch.no_grad()
def test_batches_and_both_ways_through_the_spectrum_give_the_same(monkeypatch):
    model = tiny.tiny_model()
    pixels = random_pixels(3, 40, 56)
    outputs = []
    for way in (0, 1):
        monkeypatch.setattr(fourier, "_faster", lambda ways, sample, way=way: way)
        network = FusedNetwork(fold(model.generator), CPU, torch.float32, Kernels())
        outputs.append(network.logits(pixels))
        alone = torch.cat([network.logits(one) for one in torch.split(pixels, 1)])
        torch.testing.assert_close(outputs[-1], alone, rtol=0, atol=1e-4)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (13, 9), (10, 12), (16, 22)])
@torch.no_grad()
def test_frequencies_that_only_fill_up_a_matrix_come_to_nothing(monkeypatch, size):
    torch.manual_seed(0)
    unit = FourierUnit(4, 4).eval()
    x = torch.randn(2, 4, *size).contiguous(memory_format=torch.channels_last)
    expected = x + unit(x)
    scale, shift = 1 / np.sqrt(1 + unit.bn.eps), unit.bn.bias.detach()
    affine = fourier.Affine(unit.conv_layer.weight.detach() * scale, shift)
    conv = Conv(planar(affine), CPU, torch.float32)
    for aligned in (1, 8):
        monkeypatch.setattr(fourier, "_aligned", lambda device, aligned=aligned: aligned)
        matrices = Transforms(*size, CPU, torch.float32)
        assert len(matrices.along_height) % aligned == 0
        assert len(matrices.along_width) % aligned == 0
        found = ByProducts(conv, matrices)(x.clone(memory_format=torch.preserve_format))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_only_channels_in_whole_groups_fit():
    assert fits(fold(tiny.tiny_model(ngf=8).generator), torch.float16)
    assert not fits(fold(tiny.tiny_model(ngf=4).generator), torch.float16)
    assert fits(fold(tiny.tiny_model(ngf=4).generator), torch.float32)


def test_where_kernels_cannot_be_compiled_there_is_the_other_network(monkeypatch, caplog):
    def fails(device, dtype):
        raise OSError("libnvrtc.so.13 is not there")

    monkeypatch.setattr(engine, "CudaKernels", fails)
    monkeypatch.setattr(engine, "Network", lambda *arguments: arguments)
    folded = fold(tiny.tiny_model(ngf=8).generator)
    device = torch.device("cuda")
    with caplog.at_level(logging.WARNING):
        found = engine._network(folded, device, torch.float16)
    assert found == (folded, device, torch.float16)
    assert "libnvrtc.so.13 is not there" in caplog.text


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (16, 10)])
def test_imaginary_parts_that_count_for_nothing_are_left_out(size):
    torch.manual_seed(0)
    spectrum = torch.randn(2, 3, size[0], size[1] // 2 + 1, dtype=torch.complex64)

    class OnGpu(torch.Tensor):
        is_cuda = True

    expected = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    found = inverse(spectrum.as_subclass(OnGpu), size)
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected)
    last = inverse(spectrum.permute(0, 2, 3, 1).as_subclass(OnGpu), size, dim=(1, 2))
    torch.testing.assert_close(last.as_subclass(torch.Tensor), expected.permute(0, 2, 3, 1))


@needs_cuda
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (108, 188), (128, 128), (256, 256)])
def test_spectra_go_back_on_a_gpu_as_on_a_cpu(size):
    torch.manual_seed(0)
    spectrum = torch.randn(2, 8, size[0], size[1] // 2 + 1, dtype=torch.complex64)
    torch.testing.assert_close(
        inverse(spectrum.cuda(), size).cpu(), inverse(spectrum, size), rtol=0, atol=1e-4
    )


@needs_cuda
@pytest.mark.parametrize("size", [(1, 512, 512), (2, 1024, 1024), (2, 864, 1504)])
@torch.no_grad()
def test_half_precision_is_close_at_the_sizes_of_the_pipeline(size):
    model = subjects.model("shipped").to("cuda")
    pictures, holes = subjects.pictures(*size), subjects.holes("blocks", *size)
    network = engine_of(model, "cuda", torch.float16).network
    assert isinstance(network, FusedNetwork)
    pixels = as_pixels(pictures, holes).cuda()
    half = torch.sigmoid(network.logits(pixels).float()).cpu().numpy()
    with exact_float32():
        exact = model.generator(subjects.masked_tensor(pictures, holes).cuda())
        plain = Network(fold(model.generator), torch.device("cuda"), torch.float32)
        same = torch.sigmoid(plain.logits(pixels)).cpu().numpy()
    expected = exact.permute(0, 2, 3, 1).cpu().numpy()
    assert np.abs(same - expected).max() <= 1e-4
    for i in range(size[0]):
        assert subjects.decibels(half[i], expected[i], holes[i]) >= 60


@needs_cuda
def test_an_overflow_on_a_gpu_is_computed_again_in_float32():
    model = overflowing_model().cuda()
    mask = tiny.box_mask(24, 24)
    black, bright = np.zeros((24, 24, 3), np.uint8), np.full((24, 24, 3), 255, np.uint8)
    images = [black, bright, black]
    results = batch_inference(images, [mask] * 3, model, {}, "cuda", True)
    assert engine_of(model, "cuda", torch.float16).half_fallbacks == 1
    (exact,) = batch_inference([bright], [mask], model, {}, "cuda", False)
    assert np.array_equal(results[1], exact)
    assert np.array_equal(results[0], results[2])
