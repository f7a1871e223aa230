"""What is faster on this device is measured, and chosen only where it is clearly so."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Final

import torch

logger = logging.getLogger(__name__)

#: A way that is not the usual one must be faster by this factor, as measuring is not exact.
MARGIN: Final = 1.02

Run = Callable[[], object]


def is_faster(what: str, other: Run, usual: Run, seconds: Callable[[Run], float]) -> bool:
    """Whether `other` is clearly faster than `usual`, by `seconds`; says so in the log."""
    took, takes = seconds(other), seconds(usual)
    faster = took * MARGIN < takes
    logger.info(
        "%s: %s (%.3f ms, without it %.3f)",
        what,
        "on" if faster else "off",
        took * 1e3,
        takes * 1e3,
    )
    return faster


def seconds_on(device: torch.device) -> Callable[[Run], float]:
    """A function that measures runs on a device."""

    def seconds(run: Run, rounds: int = 5) -> float:
        """The shortest of a few runs: other work of the machine can only make one longer."""
        best = math.inf
        for _ in range(rounds + 1):
            wait_for(device)
            started = time.perf_counter()
            run()
            wait_for(device)
            best = min(best, time.perf_counter() - started)
        return best

    return seconds


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
