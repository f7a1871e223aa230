"""The real worker with a stub in place of the network.

It paints holes grey, and is steered by the environment: while the file STUB_HOLD exists no
inference ends, though with STUB_PROGRESS it makes progress; while the file STUB_BROKEN exists the
device fails at everything; STUB_TRACE is a file that gets a line per batch. A picture named
`explode.jpg` makes the inference of its batch raise, `nameless.jpg` the last stage, and `kill.jpg`
kills the process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.config import Settings, load_settings
from core.errors import DeviceFault, TransientFailure
from core.halving import halving
from core.service import serve
from core.stages import Loaded, Picture
from core.telemetry import configure_logging

GREY = 128


class StubNetwork:
    def __init__(self, settings: Settings) -> None:
        self._threshold = settings.mask_threshold
        self._hold = Path(os.environ.get("STUB_HOLD", "/nonexistent"))
        self._broken = Path(os.environ.get("STUB_BROKEN", "/nonexistent"))
        self._trace = os.environ.get("STUB_TRACE")
        self._progresses = "STUB_PROGRESS" in os.environ
        self.progressed_at = 0.0

    def describe(self) -> str:
        return "a stub"

    def __call__(self, batch: Sequence[Loaded]) -> list[Picture | TransientFailure]:
        if self._trace:
            kind = "long" if batch[0].job.is_long else "short"
            requests = " ".join(one.job.request_id for one in batch)
            with open(self._trace, "a") as trace:
                trace.write(f"{kind} {requests}\n")
        while self._hold.exists():
            if self._progresses:
                self.progressed_at = time.monotonic()
            time.sleep(0.002)
        if any(one.job.image_id == "kill.jpg" for one in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return halving(self._paint, batch, self._check_device)

    def _check_device(self) -> None:
        if self._broken.exists():
            raise DeviceFault("the stub is broken: the process ends")

    def _paint(self, batch: Sequence[Loaded]) -> list[Picture]:
        if self._broken.exists() or any(one.job.image_id == "explode.jpg" for one in batch):
            raise RuntimeError("the stub explodes")
        return [
            np.where((one.mask > self._threshold)[..., None], np.uint8(GREY), one.image)
            if one.job.image_id != "nameless.jpg"
            else np.zeros((0, 0, 3), np.uint8)
            for one in batch
        ]


if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    serve(settings, StubNetwork)
