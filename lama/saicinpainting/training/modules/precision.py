"""The precisions that the hardware multiplies in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch

#: Processor flags, in Linux's spelling, of hardware that multiplies bfloat16 (x86 and ARM).
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@lru_cache(maxsize=1)
def _cpu_flags() -> frozenset[str]:
    """The processor's feature flags; empty where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.lower().startswith(("flags", "features")))
    return frozenset(next(lines, "").partition(":")[2].split())


def half_dtype(device: str | torch.device) -> torch.dtype:
    """The half precision of a device: float16 on CUDA, bfloat16 on a CPU with units for it.

    float32 where there is none. `lama.engine.precision` decides whether it is faster.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.float16
    if kind == "cpu" and _BFLOAT16_FLAGS & _cpu_flags():
        # Without the instructions bfloat16 is emulated, and slower than float32.
        return torch.bfloat16
    return torch.float32


#: The switches belong to the process: how many threads are inside, and the values before the first.
_exact = threading.Lock()
_inside = 0
_before: list[str] = []


@contextmanager
def exact_float32() -> Iterator[None]:
    """A context in which CUDA computes float32 as float32, and not as TF32 with its 10 bits.

    Several threads may be inside; the last one to leave restores the values before.
    """
    global _inside, _before
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    with _exact:
        if not _inside:
            _before = [switch.fp32_precision for switch in switches]
            for switch in switches:
                switch.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _exact:
            _inside -= 1
            if not _inside:
                for switch, value in zip(switches, _before, strict=True):
                    switch.fp32_precision = value
