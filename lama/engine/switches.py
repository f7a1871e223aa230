"""Ways to compute the same on a GPU. Which is the fastest depends on the device: it is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TypeVar

import torch

from .measuring import MARGIN, Run

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass
class Switches:
    """What a network does. The defaults are what it does until something else measures faster."""

    #: The Fourier units on a stream beside that of the convolutions.
    second_stream: bool = True
    #: cuDNN tries all its kernels for a convolution instead of choosing by rules.
    benchmark: bool = False
    #: Transposed convolutions as convolutions that compute blocks of 2×2 pixels.
    ups_by_blocks: bool = False


def choose(
    switches: Switches, record: Callable[[], Run | None], seconds: Callable[[Run], float]
) -> None:
    """Turns each switch, and keeps it so where what is recorded then is clearly faster.

    `record` returns a run of the network as the switches are, or None if that cannot be recorded.
    `seconds` measures a run.
    """
    usual = record()
    if usual is None:
        return
    best = seconds(usual)
    for field in fields(switches):
        before = getattr(switches, field.name)
        setattr(switches, field.name, not before)
        other = record()
        took = None if other is None else seconds(other)
        if took is not None and took * MARGIN < best:
            best = took
        else:
            setattr(switches, field.name, before)
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
