"""Which precision the network runs in, and the half-precision twin of a generator."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from .ffc import FFCResNetGenerator, FourierUnit

#: Processor flags, in Linux's spelling, of hardware that multiplies bfloat16 (x86 and ARM).
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@lru_cache(maxsize=1)
def _cpu_flags() -> frozenset[str]:
    """The processor's feature flags; empty where the system doesn't tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.lower().startswith(("flags", "features")))
    return frozenset(next(lines, "").partition(":")[2].split())


def half_dtype(device: str | torch.device, use_fp16: bool) -> torch.dtype:
    """The dtype to run in: float16 on CUDA, bfloat16 on a CPU that multiplies it, else float32."""
    kind = torch.device(device).type
    if use_fp16 and kind == "cuda":
        return torch.float16
    if use_fp16 and kind == "cpu" and _BFLOAT16_FLAGS & _cpu_flags():
        # Without the instructions bfloat16 is emulated, and slower than float32.
        return torch.bfloat16
    return torch.float32


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, CUDA's float32 convolutions and products are float32, not TF32 with its 10 bits."""
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def half_copy(generator: FFCResNetGenerator, dtype: torch.dtype) -> nn.Module:
    """A twin whose convolutions are `dtype`; the generator itself stays as it is.

    Takes B×4×H×W float32 and returns logits, B×3×H×W: without the sigmoid, which would turn an
    overflow into a black or white pixel that nobody notices. In float32 stay the batch norms, the
    Fourier units (spectra leave float16's range), and for bfloat16 the last convolution, whose
    inputs' rounding shows most: with it 57 dB against float32 on random weights, without it 61.
    """
    twin = copy.deepcopy(generator)
    twin.model[-1] = nn.Identity()
    kept: set[nn.Module] = {m.conv_layer for m in twin.modules() if isinstance(m, FourierUnit)}
    if dtype == torch.bfloat16:
        kept.add(twin.model[-2])
    for module in twin.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            if module not in kept:
                module.to(dtype)
            module.register_forward_pre_hook(_cast_input)
    # Tensor cores, and oneDNN on a CPU, want a pixel's channels side by side.
    return twin.to(memory_format=torch.channels_last)  # type: ignore


def _cast_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A convolution wants its input in the dtype of its weights."""
    assert isinstance(module.weight, Tensor)
    return (inputs[0].to(module.weight.dtype),)
