"""Ways to compute the same on a GPU. Which is the fastest depends on the device: it is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Final, Literal, TypeVar, get_args

import torch

from .measuring import MARGIN, Run

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


Ups = Literal["transposed", "blocks", "rows"]


@dataclass
class Switches:
    """What a network does. The defaults are what it does until something else measures faster."""

    #: The Fourier units on a stream beside that of the convolutions.
    second_stream: bool = True
    #: cuDNN tries all its kernels for a convolution instead of choosing by rules.
    benchmark: bool = False
    #: Transposed convolutions as such, as convolutions that compute blocks of 2×2 pixels, or as two
    #: that compute even and odd rows.
    ups: Ups = "transposed"


#: The settings of a switch that is not on or off.
WAYS: Final[dict[str, tuple[object, ...]]] = {"ups": get_args(Ups)}


def choose(
    switches: Switches, record: Callable[[], Run | None], seconds: Callable[[Run], float]
) -> None:
    """Tries each setting of each switch, and keeps what is clearly faster when it is recorded.

    `record` returns a run of the network as the switches are, or None if that cannot be recorded.
    `seconds` measures a run.
    """
    usual = record()
    if usual is None:
        return
    best = seconds(usual)
    for field in fields(switches):
        fastest = before = getattr(switches, field.name)
        for way in WAYS.get(field.name, (False, True)):
            if way == before:
                continue
            setattr(switches, field.name, way)
            other = record()
            took = None if other is None else seconds(other)
            if took is not None and took * MARGIN < best:
                best, fastest = took, way
        setattr(switches, field.name, fastest)
    logger.info("%s: %.3f ms, measured", switches, best * 1e3)


class Recorders:
    """Threads that record, with cuDNN's benchmark and without.

    cuDNN's choices are remembered by thread, the first one for good. The threads stay, as their
    choices may own what a recording uses.
    """

    def __init__(self) -> None:
        self._threads = {benchmark: ThreadPoolExecutor(1, "record") for benchmark in (False, True)}

    def run(self, benchmark: bool, work: Callable[[], Result]) -> Result:
        """Does `work` in the thread for `benchmark`; returns or raises what it does."""
        return self._threads[benchmark].submit(_run, benchmark, work).result()


@torch.no_grad()  # a thread has that of its own too
def _run(benchmark: bool, work: Callable[[], Result]) -> Result:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = benchmark
    try:
        return work()
    finally:
        torch.backends.cudnn.benchmark = before
