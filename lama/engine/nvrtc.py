"""Compiles kernels in CUDA's C++ at run time, with the compiler that torch comes with."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

#: Threads of a block.
THREADS = 256

#: The most blocks of a grid in y; a kernel goes through further rows in steps.
MOST_ROWS = 65_535


class Kernel:
    """A compiled function on one device, started like an operation of torch."""

    def __init__(self, module: ctypes.c_void_p, name: str, device: torch.device) -> None:
        self._device = device
        self._function = ctypes.c_void_p()
        _require(
            "cuModuleGetFunction",
            _driver().cuModuleGetFunction(
                ctypes.byref(self._function), module, ctypes.c_char_p(name.encode())
            ),
        )

    def __call__(self, size: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        """Starts at least `size` threads in x, and `size` blocks in y, up to MOST_ROWS, and z.

        `arguments` are ctypes; the caller keeps the memory that they point to alive.
        """
        across, rows, images = size
        grid = -(-across // THREADS), min(rows, MOST_ROWS), images
        places = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        stream = ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)
        # The driver launches in the thread's current context, which may be another device's.
        with torch.cuda.device(self._device):
            _require(
                "cuLaunchKernel",
                _driver().cuLaunchKernel(
                    self._function, *grid, THREADS, 1, 1, 0, stream, places, None
                ),
            )


def kernels(source: str, names: Sequence[str], device: torch.device) -> list[Kernel]:
    """The functions of these names. Raises RuntimeError or OSError if they cannot be compiled.

    Compiling takes half a second, and is done once for all devices of a kind.
    """
    with torch.cuda.device(device):
        # torch makes its context with the first tensor.
        torch.empty(1, device=device)
        major, minor = torch.cuda.get_device_capability(device)
        module = ctypes.c_void_p()
        code = _code(source, 10 * major + minor)
        _require("cuModuleLoadData", _driver().cuModuleLoadData(ctypes.byref(module), code))
        return [Kernel(module, name, device) for name in names]


def pointers(*tensors: torch.Tensor | None) -> list[Any]:
    """Arguments of a kernel."""
    return [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]


def numbers_of(*numbers: int) -> list[Any]:
    """Arguments of a kernel."""
    return [ctypes.c_int(number) for number in numbers]


def _code(source: str, architecture: int) -> bytes:
    """Machine code for an architecture (90 for sm_90); PTX if NVRTC is older than the device.

    The driver compiles PTX for any device that is newer than the PTX.
    """
    try:
        return _compiled(source, f"sm_{architecture}")
    except RuntimeError:
        newest = max(_architectures(), default=architecture)
        if newest >= architecture:
            raise
        return _compiled(source, f"compute_{newest}")


def _architectures() -> list[int]:
    """The architectures that NVRTC compiles for."""
    compiler = _compiler()
    count = ctypes.c_int()
    if compiler.nvrtcGetNumSupportedArchs(ctypes.byref(count)):
        return []
    found = (ctypes.c_int * count.value)()
    return [] if compiler.nvrtcGetSupportedArchs(found) else list(found)


@lru_cache(maxsize=8)
def _compiled(source: str, architecture: str) -> bytes:
    """Machine code, or PTX for an architecture compute_…."""
    compiler = _compiler()
    program = ctypes.c_void_p()
    _require(
        "nvrtcCreateProgram",
        compiler.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), b"lama.cu", 0, None, None
        ),
    )
    try:
        options = (ctypes.c_char_p * 1)(f"--gpu-architecture={architecture}".encode())
        if compiler.nvrtcCompileProgram(program, 1, options):
            raise RuntimeError(f"NVRTC for {architecture}: {_log(compiler, program)}")
        kind = "PTX" if architecture.startswith("compute_") else "CUBIN"
        size = ctypes.c_size_t()
        get_size = getattr(compiler, f"nvrtcGet{kind}Size")
        _require(f"nvrtcGet{kind}Size", get_size(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        _require(f"nvrtcGet{kind}", getattr(compiler, f"nvrtcGet{kind}")(program, code))
        return code.raw
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


def _log(compiler: Any, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    compiler.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    compiler.nvrtcGetProgramLog(program, text)
    return text.value.decode(errors="replace")


@lru_cache(maxsize=1)
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


@lru_cache(maxsize=1)
def _compiler() -> Any:
    """The NVRTC of torch's CUDA version, on the loader's path, with Python or in its packages."""
    name = f"libnvrtc.so.{(torch.version.cuda or '').partition('.')[0]}"
    folders = [Path(entry) / "nvidia" for entry in sys.path if entry]
    found = [str(path) for folder in folders for path in sorted(folder.glob(f"*/lib/{name}"))]
    for candidate in [name, *found, str(Path(sys.prefix) / "lib" / name)]:
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise OSError(f"{name} is neither on the loader's path nor with Python or its packages")


def _require(what: str, status: int) -> None:
    if status:
        raise RuntimeError(f"{what} failed with status {status}")
