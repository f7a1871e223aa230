"""A stand-in for the network: what is timed with it is everything else."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from benchmarks import timeline
from core.config import Settings
from core.errors import TransientFailure
from core.network import LaMa
from core.pixels.handover import Loaded, Network, Picture

#: Environment variable: milliseconds a picture that the stand-in takes, asleep, like a device that
#: computes without the processor; unset for the real network.
VARIABLE = "BENCHMARK_NETWORK_MS"


class Identity(Network):
    """Gives every picture back as it came."""

    def __init__(self, milliseconds: float) -> None:
        self._seconds = milliseconds / 1000

    def describe(self) -> str:
        return f"identity, {self._seconds * 1000:g} ms a picture"

    def __call__(self, batch: Sequence[Loaded]) -> list[Picture | TransientFailure]:
        if self._seconds:
            time.sleep(self._seconds * len(batch))
        return [one.image for one in batch]


def network(settings: Settings) -> Network:
    """What the environment asks for."""
    if timeline.VARIABLE in os.environ:
        return timeline.network(settings)
    if milliseconds := os.environ.get(VARIABLE):
        return Identity(float(milliseconds))
    return LaMa(settings)
