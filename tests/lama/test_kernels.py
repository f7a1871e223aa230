"""The kernels do what their definition in torch's operations does; and how they are compiled.

Without a GPU their source is compiled for the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess

import pytest
import torch

from lama.engine import nvrtc
from lama.engine.kernels import CudaKernels, Kernels, Terms, interleaved, unblocked
from lama.engine.sources import ENDS, source
from tests.lama.emulated import emulate, needs_compiler
from tests.lama.test_fused import random_pixels

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

#: B, H, W, C of what comes in; columns and rows before it; how many more there are in all.
SHAPES = [
    ((2, 13, 17, 64), (1, 1), (2, 2)),
    ((3, 9, 33, 192), (3, 3), (6, 9)),
    ((1, 16, 16, 24), (0, 0), (0, 0)),
]


#: Devices and dtypes; a CPU's compiler does not know how a GPU reads float16.
PLACES = [
    pytest.param("cpu", torch.bfloat16, marks=needs_compiler),
    pytest.param("cpu", torch.float32, marks=needs_compiler),
    pytest.param("cuda", torch.float16, marks=needs_cuda),
    pytest.param("cuda", torch.bfloat16, marks=needs_cuda),
    pytest.param("cuda", torch.float32, marks=needs_cuda),
]


def kernels_on(device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> CudaKernels:
    if device == "cpu":
        emulate(monkeypatch)
    return CudaKernels(torch.device(device), dtype)


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


@pytest.mark.parametrize(("device", "dtype"), PLACES)
@pytest.mark.parametrize(("shape", "corner", "more"), SHAPES)
@pytest.mark.parametrize("everything", [False, True])
def test_the_kernel_between_convolutions_does_what_it_says(
    monkeypatch, device, dtype, shape, corner, more, everything
):
    torch.manual_seed(0)
    batch, height, width, channels = shape

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    # A part of a map with more channels
    given = some(batch, height, width, channels + 16)[..., 8:-8]
    for i, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        given[0, i, i + 1, i + 2] = value
    terms = Terms()
    if everything:
        terms = Terms(
            bias=torch.randn(channels, device=device),
            plus=some(batch, height, width, 2 * channels)[..., channels:],
            onto=some(batch, height + 2, width + 2, channels)[:, 1:-1, 1:-1],
        )
    rows, columns = height + more[1], width + more[0]
    outs = [(batch, rows, columns, channels)]
    if rows % 2 == columns % 2 == 0:
        outs.append((batch, rows // 2, columns // 2, 4 * channels))
    kernels = kernels_on(device, dtype, monkeypatch)
    for out in outs:
        one, other = (how.finish(given, some(*out), terms, corner) for how in (kernels, Kernels()))
        assert_same(one, other)


@pytest.mark.parametrize(("device", "dtype"), PLACES)
@pytest.mark.parametrize("corner", [0, 3])
def test_the_kernel_behind_halves_of_rows_does_what_it_says(monkeypatch, device, dtype, corner):
    torch.manual_seed(0)
    bias = torch.randn(16, device=device)
    # Channels of a wider map, and rows and columns of a larger one
    both = torch.randn(2, 6, 8, 64, device=device).to(dtype)[:, 1:, 1:]
    even, odd = both[..., :32], both[..., 32:]
    kernels = kernels_on(device, dtype, monkeypatch)
    rows, columns = 10 + 2 * corner, 14 + 2 * corner
    for shape in ((2, rows, columns, 16), (2, rows // 2, columns // 2, 64)):
        one, other = (
            how.finish(even, even.new_empty(shape), Terms(bias), (corner, corner), odd)
            for how in (kernels, Kernels())
        )
        assert_same(one, other)
        if shape[1] == 10:
            assert_same(one, (interleaved(even, odd).float() + bias).relu().to(dtype))


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-6}[one.dtype]
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_the_first_and_the_last_kernel_do_what_they_say(monkeypatch, device, dtype):
    torch.manual_seed(0)
    pixels = random_pixels(3, 24, 40).to(device)
    kernels, plain = kernels_on(device, dtype, monkeypatch), Kernels()
    one, other = (
        how.begin(pixels, torch.empty(3, 30, 48, 4, device=device, dtype=dtype), (3, 3))
        for how in (kernels, plain)
    )
    assert torch.equal(one, other)
    blocks = (torch.randn(3, 6, 10, 48, device=device) * 4).to(dtype)
    blocks[1, 2, 3, 4], blocks[2, 1, 1, 1] = torch.nan, torch.inf
    bias = torch.randn(3, device=device)
    (one, finite), (other, also) = (how.end(blocks, bias, pixels) for how in (kernels, plain))
    assert finite.tolist() == also.tolist() == [True, False, False]
    assert int((one[0].int() - other[0].int()).abs().max()) <= 1
    known = pixels[..., 3] == 0
    assert torch.equal(one[known], pixels[known][:, :3])


@needs_compiler
def test_a_map_with_more_rows_than_a_grid_can_have(monkeypatch):
    kernels = kernels_on("cpu", torch.float32, monkeypatch)
    rows = nvrtc.MOST_ROWS + 101
    pixels = random_pixels(1, rows - 6, 8)
    one, other = (
        how.begin(pixels, torch.full((1, rows, 12, 4), 7.0), (3, 3)) for how in (kernels, Kernels())
    )
    assert torch.equal(one, other)
    given = torch.randn(1, rows, 2, 4)
    one, other = (
        how.finish(given, torch.full((1, rows + 2, 4, 4), 7.0), Terms(), (1, 1))
        for how in (kernels, Kernels())
    )
    assert torch.equal(one, other)
    blocks, pixels = torch.randn(1, rows // 4, 1, 48), random_pixels(1, rows // 4 * 4, 4)
    (one, finite), (other, also) = (
        how.end(blocks, torch.zeros(3), pixels) for how in (kernels, Kernels())
    )
    assert torch.equal(finite, also)
    assert int((one.int() - other.int()).abs().max()) <= 1


class Driver:
    """CUDA's driver, and the device whose context the thread has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.launches = "cuda:0", []
        monkeypatch.setattr(nvrtc, "_driver", lambda: self)
        monkeypatch.setattr(torch.cuda, "device", self._entered)
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda device: type("Stream", (), {"cuda_stream": 7})
        )

    @contextlib.contextmanager
    def _entered(self, device):
        before, self.current = self.current, str(device)
        yield
        self.current = before

    def cuModuleGetFunction(self, *_) -> int:
        return 0

    def cuLaunchKernel(self, function, *grid) -> int:
        self.launches.append((self.current, grid[:3]))
        return 0


def test_a_kernel_is_launched_in_the_context_of_its_device_with_a_grid_that_it_can_have(
    monkeypatch,
):
    driver = Driver(monkeypatch)
    kernel = nvrtc.Kernel(ctypes.c_void_p(), "finish", torch.device("cuda:1"))
    for size in ((200, 70_000, 4), (257, 65_535, 1)):
        kernel(size, nvrtc.numbers_of(1, 2))
    assert driver.launches == [("cuda:1", (1, 65_535, 4)), ("cuda:1", (2, 65_535, 1))]
    assert driver.current == "cuda:0"


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


def test_a_device_older_than_all_that_the_compiler_knows_is_an_error(monkeypatch):
    compiler = OldCompiler()
    compiler.nvrtcCompileProgram = lambda *_: 1
    monkeypatch.setattr(nvrtc, "_compiler", lambda: compiler)
    with pytest.raises(RuntimeError, match="NVRTC for sm_61"):
        nvrtc._code("a third test", 61)


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
        for text in (source(dtype), ENDS):
            assert nvrtc._compiled(text, architecture)
    with pytest.raises(RuntimeError, match="error: "):
        nvrtc._compiled(source(dtype) + "?", "sm_90")


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch brings a compiler along")
def test_a_torch_without_a_compiler_is_an_error_that_says_so():
    with pytest.raises(OSError, match="libnvrtc"):
        nvrtc._compiler()
