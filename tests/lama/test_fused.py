"""The forward pass for GPUs: on a CPU its arithmetic, on a GPU its kernels too."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess

import numpy as np
import pytest
import torch

from benchmarks import subjects
from lama.engine import engine, fourier, nvrtc
from lama.engine.engine import Engine, as_pixels
from lama.engine.folding import fold
from lama.engine.fourier import ByProducts, Transforms, planar
from lama.engine.fused import FusedNetwork, fits
from lama.engine.kernels import CudaKernels, Kernels, Terms, unblocked
from lama.engine.layers import Conv
from lama.engine.network import Network
from lama.engine.sources import source
from lama.inference import batch_inference, engine_of
from lama.saicinpainting.training.modules.ffc import FourierUnit, inverse
from lama.saicinpainting.training.modules.precision import exact_float32
from tests.lama import tiny
from tests.lama.test_half_precision import overflowing_model

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CPU = torch.device("cpu")

#: B, H, W, C of what comes in; columns and rows before it; how many more there are in all.
SHAPES = [
    ((2, 13, 17, 64), (1, 1), (2, 2)),
    ((3, 9, 33, 192), (3, 3), (6, 9)),
    ((1, 16, 16, 24), (0, 0), (0, 0)),
]


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


def test_a_picture_with_more_rows_than_a_grid_can_have_is_computed_without_kernels(monkeypatch):
    model = tiny.tiny_model()
    tall = Engine(model.generator, CPU, torch.float32)
    tall._by_windows = False
    tall.network = FusedNetwork(fold(model.generator), CPU, torch.float32, Kernels())
    picture, hole = tiny.picture(48, 32), tiny.box_mask(48, 32) > 0
    (expected,) = tall.fill(picture[None], hole[None])
    monkeypatch.setattr(engine, "MOST_ROWS", 40)
    monkeypatch.setattr(tall.network, "paint", None)
    (filled,) = tall.fill(picture[None], hole[None])
    assert np.abs(filled.astype(int) - expected).max() <= 1


class OldCompiler:
    """NVRTC that knows nothing newer than sm_90."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def nvrtcCreateProgram(self, *_) -> int:
        return 0

    def nvrtcDestroyProgram(self, *_) -> int:
        return 0

    def nvrtcCompileProgram(self, program, count, options) -> int:
        self.asked.append(options[0].decode().partition("=")[2])
        return int(self.asked[-1] == "sm_120")

    def nvrtcGetProgramLogSize(self, program, size) -> int:
        size._obj.value = 1
        return 0

    def nvrtcGetProgramLog(self, *_) -> int:
        return 0

    def nvrtcGetNumSupportedArchs(self, count) -> int:
        count._obj.value = 2
        return 0

    def nvrtcGetSupportedArchs(self, found) -> int:
        found[0], found[1] = 75, 90
        return 0

    def nvrtcGetPTXSize(self, program, size) -> int:
        size._obj.value = 4
        return 0

    def nvrtcGetPTX(self, program, code) -> int:
        code[:4] = b"PTX\0"
        return 0


def test_a_device_newer_than_the_compiler_gets_ptx_for_the_newest_that_it_knows(monkeypatch):
    compiler = OldCompiler()
    monkeypatch.setattr(nvrtc, "_compiler", lambda: compiler)
    assert nvrtc._code("a test", 120) == b"PTX\0"
    assert compiler.asked == ["sm_120", "compute_90"]
    compiler.nvrtcCompileProgram = lambda *_: 1  # it is the source that is at fault
    with pytest.raises(RuntimeError, match="sm_90"):
        nvrtc._code("another test", 90)


def test_only_channels_in_whole_groups_fit():
    assert fits(fold(tiny.tiny_model(ngf=8).generator), torch.float16)
    assert not fits(fold(tiny.tiny_model(ngf=4).generator), torch.float16)
    assert fits(fold(tiny.tiny_model(ngf=4).generator), torch.float32)


def test_what_a_finished_map_is_made_of():
    given = torch.tensor([[[[1.0], [-5.0]], [[2.0], [torch.nan]]]])
    out = Kernels().finish(
        given,
        torch.empty(1, 4, 4, 1),
        Terms(torch.tensor([1.0]), given * 10, given - given + 100),
        (1, 1),
    )
    # 1 + 1 + 10, -5 + 1 - 50, 2 + 1 + 20, NaN; the edge is the other row or column.
    middle = [[112, 100], [123, torch.nan]]
    expected = torch.tensor(middle).roll((1, 1), (0, 1)).repeat(2, 2)
    torch.testing.assert_close(out[0, ..., 0], expected, equal_nan=True)


def test_blocks_of_pixels_are_read_row_by_row():
    blocks = torch.arange(2 * 3 * 2 * 2 * 3).view(1, 2, 3, 12)
    pixels = unblocked(blocks)
    assert pixels.shape == (1, 4, 6, 3)
    assert pixels[0, 0, 1].tolist() == blocks[0, 0, 0, 3:6].tolist()
    assert pixels[0, 1, 0].tolist() == blocks[0, 0, 0, 6:9].tolist()
    assert pixels[0, 2, 5].tolist() == blocks[0, 1, 2, 3:6].tolist()


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


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler")
def test_the_kernels_round_to_bfloat16_as_torch_does(tmp_path):
    functions = source(torch.bfloat16).partition("struct")[0]
    (tmp_path / "it.cpp").write_text(
        "#include <cstring>\n#define __device__ static\n"
        "static float __uint_as_float(unsigned b) { float f; memcpy(&f, &b, 4); return f; }\n"
        "static unsigned __float_as_uint(float f) { unsigned b; memcpy(&b, &f, 4); return b; }\n"
        + functions
        + 'extern "C" void all(const float* in, Number* out, float* back, int n) {\n'
        "for (int i = 0; i < n; i++) { out[i] = number(in[i]); back[i] = value(out[i]); } }\n"
    )
    command = ["g++", "-O1", "-shared", "-fPIC", "-o", tmp_path / "it.so", tmp_path / "it.cpp"]
    subprocess.run(command, check=True)
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=generator, dtype=torch.int64)
    halves = torch.arange(1000) * 2**16 + 2**15  # in the middle of two
    given = torch.cat([bits, halves]).to(torch.int32).view(torch.float32)
    given = torch.cat([given, torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 3.4e38])])
    found, back = torch.empty(len(given), dtype=torch.bfloat16), torch.empty(len(given))
    ctypes.CDLL(str(tmp_path / "it.so")).all(
        *(ctypes.c_void_p(one.data_ptr()) for one in (given, found, back)), len(given)
    )
    expected = given.to(torch.bfloat16)
    assert torch.equal(found.isnan(), expected.isnan())
    known = ~expected.isnan()
    assert torch.equal(found.view(torch.int16)[known], expected.view(torch.int16)[known])
    assert torch.equal(back[known], expected.float()[known])


@pytest.mark.skipif(torch.version.cuda is None, reason="torch brings no compiler along")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_kernels_compile_for_old_and_new_gpus_without_one(dtype):
    for architecture in ("sm_75", "sm_90"):
        assert nvrtc._compiled(source(dtype), architecture)
    with pytest.raises(RuntimeError, match="error: "):
        nvrtc._compiled(source(dtype) + "?", "sm_90")


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch brings a compiler along")
def test_a_torch_without_a_compiler_is_an_error_that_says_so():
    with pytest.raises(OSError, match="libnvrtc"):
        nvrtc._compiler()


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
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("shape", "corner", "more"), SHAPES)
@pytest.mark.parametrize("everything", [False, True])
def test_the_kernel_between_convolutions_does_what_it_says(dtype, shape, corner, more, everything):
    torch.manual_seed(0)
    batch, height, width, channels = shape

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda").to(dtype)

    # A part of a map with more channels
    given = some(batch, height, width, channels + 16)[..., 8:-8]
    for i, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        given[0, i, i + 1, i + 2] = value
    terms = Terms()
    if everything:
        terms = Terms(
            bias=torch.randn(channels, device="cuda"),
            plus=some(batch, height, width, 2 * channels)[..., channels:],
            onto=some(batch, height + 2, width + 2, channels)[:, 1:-1, 1:-1],
        )
    rows, columns = height + more[1], width + more[0]
    outs = [(batch, rows, columns, channels)]
    if rows % 2 == columns % 2 == 0:
        outs.append((batch, rows // 2, columns // 2, 4 * channels))
    kernels = CudaKernels(torch.device("cuda"), dtype)
    for out in outs:
        one, other = (how.finish(given, some(*out), terms, corner) for how in (kernels, Kernels()))
        tolerance = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-6}[dtype]
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_first_and_the_last_kernel_do_what_they_say(dtype):
    torch.manual_seed(0)
    pixels = random_pixels(3, 24, 40).cuda()
    kernels, plain = CudaKernels(torch.device("cuda"), dtype), Kernels()
    one, other = (
        how.begin(pixels, torch.empty(3, 30, 48, 4, device="cuda", dtype=dtype), (3, 3))
        for how in (kernels, plain)
    )
    assert torch.equal(one, other)
    blocks = (torch.randn(3, 6, 10, 48, device="cuda") * 4).to(dtype)
    blocks[1, 2, 3, 4], blocks[2, 1, 1, 1] = torch.nan, torch.inf
    bias = torch.randn(3, device="cuda")
    (one, finite), (other, also) = (how.end(blocks, bias, pixels) for how in (kernels, plain))
    assert finite.tolist() == also.tolist() == [True, False, False]
    assert int((one[0].int() - other[0].int()).abs().max()) <= 1
    known = pixels[..., 3] == 0
    assert torch.equal(one[known], pixels[known][:, :3])


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
