"""How much a part does: all of it on a GPU, little in a rehearsal on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

#: A line of a part: names and values, JSON's types.
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of a run."""

    device: str
    batch: int
    #: Pixels, of the pictures, and of square matrices whose product is timed.
    side: int
    matrix_side: int
    #: Bytes that are copied at once.
    copied: int
    rounds: int
    #: Calls of one timing.
    calls: int
    networks: tuple[str, ...]
    #: Jobs of a run of the worker, and how many processes serve them.
    jobs: int
    workers: tuple[int, ...]
    #: Seconds until workers have recorded their graphs.
    ready_s: float
    pages: int


FULL: Final = Scale(
    device="cuda",
    batch=4,
    side=1024,
    matrix_side=8192,
    copied=1 << 30,
    rounds=5,
    calls=10,
    networks=("shipped", "lama-fourier"),
    jobs=400,
    workers=(1, 2),
    ready_s=12,
    pages=8,
)
REHEARSAL: Final = Scale(
    device="cpu",
    batch=1,
    side=64,
    matrix_side=256,
    copied=1 << 22,
    rounds=1,
    calls=1,
    networks=("shipped",),
    jobs=1,
    workers=(1,),
    ready_s=0,
    pages=1,
)


def wait(device: str) -> None:
    """Returns once a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(act: Callable[[], object], scale: Scale) -> float:
    """The median of some rounds, of one call, after a first that does not count."""
    act()
    taken = []
    for _ in range(scale.rounds):
        wait(scale.device)
        began = time.perf_counter()
        for _ in range(scale.calls):
            act()
        wait(scale.device)
        taken.append((time.perf_counter() - began) / scale.calls)
    return statistics.median(taken)


#: A part: what it measures at a scale, line by line.
Measure = Callable[[Scale], Iterator[Row]]
