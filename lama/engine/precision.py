"""Decides which precision the network computes in on this machine.

A processor may support bfloat16 and still be slower in it than in float32: some compute it at twice
the rate, others at half. So on a CPU both are measured on a small convolution like those of the
residual blocks, which take most of a picture's time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lama.saicinpainting.training.modules.precision import half_dtype

from .folding import Affine
from .layers import Conv

#: Half precision must be faster by this factor: it is less exact, and noise would decide a tie.
_MARGIN = 1.15

#: The channels, rows and columns of the measured map: 0.3 GFLOP, some milliseconds.
_CHANNELS, _SIDE = 128, 34

#: The runs of each precision, in turns, after a first run that does not count.
_ROUNDS = 5


@dataclass(frozen=True)
class Precision:
    """A dtype, and the reason for it as text."""

    dtype: torch.dtype
    why: str

    def __str__(self) -> str:
        return f"{_name(self.dtype)} ({self.why})"


def decide(device: str | torch.device, use_fp16: bool) -> Precision:
    """The precision for `device`: half if `use_fp16` allows it and it is there and faster.

    That is float16 on CUDA, and bfloat16 or float32 on a CPU. On a CPU that has both, the first
    call with a number of threads (torch's, in the calling thread) measures for about 0.1 s.
    """
    half = half_dtype(device)
    if not use_fp16:
        return Precision(torch.float32, "half precision is off")
    if half == torch.float32:
        return Precision(half, "the device does not multiply in half precision")
    if torch.device(device).type != "cpu":
        return Precision(half, "half precision")
    threads = torch.get_num_threads()
    with _deciding:
        if threads not in _decided:
            _decided[threads] = faster(_rates(half), half)
        return _decided[threads]


_deciding = threading.Lock()
_decided: dict[int, Precision] = {}


def faster(rates: Mapping[torch.dtype, float], half: torch.dtype) -> Precision:
    """`half` if its rate (operations a second) is clearly the higher one, else float32."""
    pays = rates[half] > _MARGIN * rates[torch.float32]
    chosen, other = (half, torch.float32) if pays else (torch.float32, half)
    return Precision(
        chosen,
        f"{rates[chosen] / 1e9:.0f} GFLOP/s, {_name(other)} {rates[other] / 1e9:.0f}",
    )


@torch.no_grad()
def _rates(half: torch.dtype) -> dict[torch.dtype, float]:
    """Operations a second of a convolution in float32 and in `half`, on the CPU."""
    # Constants: random numbers would advance the generator that a caller has seeded.
    kernel = Affine(torch.full((_CHANNELS, _CHANNELS, 3, 3), 1e-3), torch.zeros(_CHANNELS))
    picture = torch.ones(1, _SIDE, _SIDE, _CHANNELS).permute(0, 3, 1, 2)
    ways: dict[torch.dtype, Callable[[], object]] = {}
    for dtype in (torch.float32, half):
        conv, sample = Conv(kernel, torch.device("cpu"), dtype), picture.to(dtype)
        ways[dtype] = lambda conv=conv, sample=sample: conv(sample)  # type: ignore[misc]
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in ways}
    for turn in range(_ROUNDS + 1):
        for dtype, run in ways.items():
            started = time.perf_counter()
            run()
            if turn:  # the first prepares the kernels
                seconds[dtype].append(time.perf_counter() - started)
    operations = 2 * _CHANNELS**2 * 9 * (_SIDE - 2) ** 2
    # Medians: other work of the machine only affects single runs.
    return {dtype: operations / sorted(taken)[_ROUNDS // 2] for dtype, taken in seconds.items()}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
