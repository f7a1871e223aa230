"""The kernels' source as C++ for the CPU: every thread of the grid, one after another."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from lama.engine import Engine, ends, kernels, nvrtc
from lama.engine.ends import CudaEnds
from lama.engine.folding import fold
from lama.engine.fused import FusedNetwork
from lama.engine.kernels import CudaKernels, Kernels
from lama.engine.nvrtc import THREADS
from lama.engine.painter import Painter
from lama.inference import engine_of
from lama.saicinpainting.training.trainers import InpaintingModel

CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler")

_BEFORE = r"""
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <utility>
#define __device__ inline
#define __global__
using std::fabs; using std::exp; using std::rint;
struct Index { int x, y, z; };
static Index blockIdx, blockDim, threadIdx, gridDim;
static float __uint_as_float(unsigned b) { float f; memcpy(&f, &b, 4); return f; }
static unsigned __float_as_uint(float f) { unsigned b; memcpy(&b, &f, 4); return b; }
"""

#: A kernel's own signature says what its arguments are.
_LAUNCH = r"""
template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** given, std::index_sequence<I...>) {
    kernel(*(std::remove_cv_t<A>*)given[I]...);
}
template <class... A>
static void launch(void (*kernel)(A...), int x, int y, int z, int threads, void** given) {
    gridDim = {x, y, z}; blockDim = {threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++)
    for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++)
        call(kernel, given, std::index_sequence_for<A...>());
}
"""


class Emulated:
    """What `nvrtc.Kernel` is on a GPU."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, size: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        across, rows, images = size
        places = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._function(-(-across // THREADS), min(rows, nvrtc.MOST_ROWS), images, THREADS, places)


def emulated(source: str, names: Sequence[str], device: torch.device) -> list[Emulated]:
    """What `nvrtc.kernels` gives for a GPU."""
    library = _compiled(source, tuple(names))
    return [Emulated(getattr(library, f"launch_{name}")) for name in names]


def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the engine's kernels be compiled for the CPU."""
    for module in (ends, kernels):
        monkeypatch.setattr(module, "kernels", emulated)


@lru_cache(maxsize=8)
def _compiled(source: str, names: tuple[str, ...]) -> ctypes.CDLL:
    launchers = "".join(
        f'extern "C" void launch_{name}(int x, int y, int z, int threads, void** given) '
        f"{{ launch(&{name}, x, y, z, threads, given); }}\n"
        for name in names
    )
    with TemporaryDirectory() as folder:
        code, library = Path(folder, "it.cpp"), Path(folder, "it.so")
        code.write_text(_BEFORE + source + _LAUNCH + launchers)
        command = ["g++", "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", library, code], check=True)
        return ctypes.CDLL(str(library))


def as_on_a_gpu(model: InpaintingModel, kind: str, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The model's engine on the CPU, made to do what a GPU does, with recordings that run again.

    `kind`: "operations" has no kernels of its own, "kernels" has them in torch's operations, and
    "emulated" has their source compiled.
    """
    made = engine_of(model, CPU, torch.float32)
    made._by_windows = False
    if kind == "operations":
        return made
    own: Kernels = Kernels()
    if kind == "emulated":
        emulate(monkeypatch)
        own, made._ends = CudaKernels(CPU, torch.float32), CudaEnds(CPU)
    made.network = FusedNetwork(fold(model.generator), CPU, torch.float32, own)
    made._painter = Painter(made.network, CPU, made.turns, made._ends)
    return made


#: The kinds, as parameters of tests.
KINDS = ["operations", "kernels", pytest.param("emulated", marks=needs_compiler)]
