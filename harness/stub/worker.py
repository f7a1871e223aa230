"""The real worker with a stub in place of the network.

It paints holes grey, and is steered by the environment: while the file STUB_HOLD exists no
inference ends, though with STUB_PROGRESS it makes progress; while the file STUB_BROKEN exists the
device fails at everything; STUB_TRACE is a file that gets a line per batch. With STUB_STAGING it
has a device with memory of its own, and STUB_HOLD holds what comes back from there. A picture named
`explode.jpg` makes the inference of its batch raise, `nameless.jpg` the last stage, and `kill.jpg`
kills the process, as everything does while the file STUB_KILLING exists.

STUB_CONSTANTS are numbers that are other ones here: `module.NAME=number`, separated by spaces.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.config import Settings, load_settings
from core.errors import DeviceFault
from core.flow.service import serve
from core.network import halving
from core.pixels.handover import Filled, Loaded, Network, Picture, Restored, is_pending
from core.telemetry import configure_logging
from lama.padding import without_padding

GREY = 128


class StubPending:
    """A picture on its way from the stub's device."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def result(self) -> Picture:
        return self._picture


class StubDevice:
    """Has copies of what is loaded, and finishes what is painted."""

    def __init__(self) -> None:
        self._given: list[Picture] = []

    def place(self, shape: Sequence[int]) -> Picture:
        self._given.append(np.empty(shape, np.uint8))
        return self._given[-1]

    def stage(self, picture: Picture, mask: Picture, original_size: Sequence[int]) -> object:
        # Both were read to where this device wants them; the mask may be a view of its place.
        assert any(picture is one for one in self._given)
        assert any(np.may_share_memory(mask, one) for one in self._given)
        self._given.clear()
        return picture.copy(), mask.copy(), original_size

    def finish(self, loaded: Loaded, painted: Filled) -> Filled:
        if not isinstance(painted, np.ndarray):
            return painted
        picture, mask, size = loaded.staged
        assert np.array_equal(picture, loaded.image)
        assert np.array_equal(mask, loaded.mask)
        content = without_padding(painted, loaded.job.padding, size)
        return StubPending(np.ascontiguousarray(content[..., ::-1]))


class StubNetwork(Network):
    staging: StubDevice | None = None
    progressed_at = 0.0

    def __init__(self, settings: Settings) -> None:
        self._threshold = settings.mask_threshold
        self._hold = Path(os.environ.get("STUB_HOLD", "/nonexistent"))
        self._broken = Path(os.environ.get("STUB_BROKEN", "/nonexistent"))
        self._killing = Path(os.environ.get("STUB_KILLING", "/nonexistent"))
        self._trace = os.environ.get("STUB_TRACE")
        self._progresses = "STUB_PROGRESS" in os.environ
        self._staging = StubDevice() if "STUB_STAGING" in os.environ else None

    def prepare(self) -> None:
        self.staging = self._staging

    def describe(self) -> str:
        return "a stub"

    def __call__(self, batch: Sequence[Loaded]) -> Sequence[Filled]:
        if self._trace:
            kind = "long" if batch[0].job.is_long else "short"
            requests = " ".join(one.job.request_id for one in batch)
            with open(self._trace, "a") as trace:
                trace.write(f"{kind} {requests}\n")
        if self.staging is None:
            self._wait()
        if self._killing.exists() or any(one.job.image_id == "kill.jpg" for one in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        painted = halving(self._paint, batch, self._check_device)
        if self._staging is None:
            return painted
        return [self._staging.finish(*one) for one in zip(batch, painted, strict=True)]

    def collect(self, pictures: Sequence[Filled]) -> list[Filled]:
        self._wait()
        self._check_device()
        return [Restored(one.result()) if is_pending(one) else one for one in pictures]

    def _wait(self) -> None:
        while self._hold.exists():
            if self._progresses:
                self.progressed_at = time.monotonic()
            time.sleep(0.002)

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


def set_constants(constants: str) -> None:
    """Have numbers in modules be other ones."""
    for constant in constants.split():
        name, _, number = constant.partition("=")
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, float(number))


if __name__ == "__main__":
    set_constants(os.environ.get("STUB_CONSTANTS", ""))
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    serve(settings, StubNetwork)
