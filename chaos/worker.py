"""The real worker with a tiny network, so that thousands of jobs go through in minutes."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from chaos.device import VARIABLE, Device
from chaos.jobs import POISON, fill
from core.config import Settings, load_settings
from core.errors import TransientFailure
from core.flow.service import serve
from core.pixels.handover import Loaded, Network, Picture
from core.telemetry import configure_logging


class TinyNetwork(Network):
    """Takes some time, so that workers always have jobs in hand; a poisonous picture kills.

    TINY_SECONDS is the longest that a batch takes; the shortest is a fifteenth of it.
    CHAOS_DEVICE is the folder of a device that may break.
    """

    def __init__(self, _: Settings) -> None:
        self._longest = float(os.environ.get("TINY_SECONDS", "0.3"))
        self._random = random.Random(os.getpid())  # noqa: S311 - nothing is secret here
        folder = os.environ.get(VARIABLE)
        self._device = Device(Path(folder)) if folder else None

    def describe(self) -> str:
        """What it is, for the log."""
        return "a tiny network"

    def __call__(self, batch: Sequence[Loaded]) -> list[Picture | TransientFailure]:
        """The pictures with their holes filled."""
        if self._device is not None:
            self._device.use(one.job.image_id for one in batch)
        if any(one.job.image_id == POISON for one in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self._random.uniform(self._longest / 15, self._longest))
        return [fill(one.image, one.mask) for one in batch]


if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings.log_level)
    serve(settings, TinyNetwork)
