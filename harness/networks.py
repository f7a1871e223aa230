"""Networks that stand in for LaMa, for workers of tests, of chaos and of benchmarks.

HARNESS_NETWORK says which of them `load_network` makes (see launch.py for the program):

    stub       paints holes grey; many environment variables steer it (see StubNetwork)
    tiny       fills holes with the mean of the known pixels, and takes some time (TINY_SECONDS)
    identity   gives every picture back as it came; sleeps IDENTITY_MS a picture
    timeline   a GPU that is a time line (see timeline.py)
    lama       the real one
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from core.config import Settings
from core.errors import DeviceFault, TransientFailure
from core.network import halving
from core.pixels.handover import Filled, Loaded, Network, Picture
from harness.device import VARIABLE as DEVICE
from harness.device import Device
from harness.fills import EXPLODING, POISON, SHAPELESS, fill_grey, fill_mean
from harness.pending import arrived, pending

#: Environment variable: the name of the network.
VARIABLE: Final = "HARNESS_NETWORK"

#: Environment variable: milliseconds a picture that `identity` takes, asleep, like a device that
#: computes without the processor.
IDENTITY_MS: Final = "IDENTITY_MS"


class StubDevice:
    """The stub's device: it has copies of what is loaded, and finishes what is painted."""

    def __init__(self) -> None:
        self._places: list[Picture] = []

    def place(self, shape: Sequence[int]) -> Picture:
        self._places.append(np.empty(shape, np.uint8))
        return self._places[-1]

    def stage(
        self, picture: Picture, mask: Picture, padding: Sequence[int], original_size: Sequence[int]
    ) -> object:
        # Both were read to where this device wants them; the mask may be a view of its place.
        assert any(picture is place for place in self._places)
        assert any(np.may_share_memory(mask, place) for place in self._places)
        self._places.clear()
        return picture.copy(), mask.copy(), original_size

    def finish(self, loaded: Loaded, painted: Filled) -> Filled:
        if not isinstance(painted, np.ndarray):
            return painted
        picture, mask, size = loaded.staged
        assert np.array_equal(picture, loaded.image)
        assert np.array_equal(mask, loaded.mask)
        assert tuple(size) == tuple(loaded.job.original_size)
        return pending(loaded, painted)


class StubNetwork(Network):
    """Paints holes grey at once, and does what the environment asks for.

    STUB_HOLD      while this file exists no inference ends; with STUB_PROGRESS it makes progress
    STUB_BROKEN    while this file exists the device fails at everything
    STUB_KILLING   while this file exists an inference kills the process
    STUB_TRACE     this file gets a line per batch: the kind, and the request ids
    STUB_STAGING   it has a device with memory of its own; STUB_HOLD holds what comes back from it
    """

    staging: StubDevice | None = None
    progressed_at = 0.0

    def __init__(self, mask_threshold: int) -> None:
        self._threshold = mask_threshold
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
            requests = " ".join(loaded.job.request_id for loaded in batch)
            with open(self._trace, "a") as trace:
                trace.write(f"{kind} {requests}\n")
        if self.staging is None:
            self._wait()
        if self._killing.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        _die_of_poison(batch)
        painted = halving(self._paint, batch, self._check_device)
        if self._staging is None:
            return painted
        return [self._staging.finish(*pair) for pair in zip(batch, painted, strict=True)]

    def collect(self, pictures: Sequence[Filled]) -> list[Filled]:
        self._wait()
        self._check_device()
        return arrived(pictures)

    def _wait(self) -> None:
        while self._hold.exists():
            if self._progresses:
                self.progressed_at = time.monotonic()
            time.sleep(0.002)

    def _check_device(self) -> None:
        if self._broken.exists():
            raise DeviceFault("the stub is broken: the process ends")

    def _paint(self, batch: Sequence[Loaded]) -> list[Picture]:
        if self._broken.exists() or any(loaded.job.image_id == EXPLODING for loaded in batch):
            raise RuntimeError("the stub explodes")
        return [
            np.zeros((0, 0, 3), np.uint8)
            if loaded.job.image_id == SHAPELESS
            else fill_grey(loaded.image, loaded.mask, self._threshold)
            for loaded in batch
        ]


class TinyStaging:
    """A device with memory of its own."""

    def place(self, shape: Sequence[int]) -> Picture:
        return np.empty(tuple(shape), np.uint8)

    def stage(
        self, picture: Picture, mask: Picture, padding: Sequence[int], original_size: Sequence[int]
    ) -> object:
        return picture.copy(), mask.copy(), original_size


class TinyNetwork(Network):
    """Takes some time, so that workers always have jobs in hand.

    TINY_SECONDS is the longest that a batch takes; the shortest is a fifteenth of it.
    TINY_STAGING has it compute by itself: a batch takes its time where it is collected.
    HARNESS_DEVICE is the folder of a device that may break (see device.py).
    """

    staging: TinyStaging | None = None

    def __init__(self) -> None:
        self._longest = float(os.environ.get("TINY_SECONDS", "0.3"))
        self._random = random.Random(os.getpid())
        folder = os.environ.get(DEVICE)
        self._device = Device(Path(folder)) if folder else None
        self.staging = TinyStaging() if "TINY_STAGING" in os.environ else None

    def describe(self) -> str:
        return "a tiny network"

    def __call__(self, batch: Sequence[Loaded]) -> list[Filled]:
        self._use([loaded.job.image_id for loaded in batch])
        _die_of_poison(batch)
        if self.staging is None:
            self._take_time()
        return [_tiny_fill(loaded) for loaded in batch]

    def collect(self, pictures: Sequence[Filled]) -> list[Filled]:
        self._take_time()
        self._use([])
        return arrived(pictures)

    def _use(self, image_ids: Sequence[str]) -> None:
        if self._device is not None:
            self._device.use(image_ids)

    def _take_time(self) -> None:
        time.sleep(self._random.uniform(self._longest / 15, self._longest))


class IdentityNetwork(Network):
    """Gives every picture back as it came: what is timed with it is everything else."""

    def __init__(self) -> None:
        self._milliseconds = float(os.environ.get(IDENTITY_MS, "0"))

    def describe(self) -> str:
        return f"identity, {self._milliseconds:g} ms a picture"

    def __call__(self, batch: Sequence[Loaded]) -> list[Picture | TransientFailure]:
        if self._milliseconds:
            time.sleep(self._milliseconds / 1000 * len(batch))
        return [loaded.image for loaded in batch]


def load_network(settings: Settings) -> Network:
    """The network that HARNESS_NETWORK names; without it the stub."""
    match os.environ.get(VARIABLE, "stub"):
        case "stub":
            return StubNetwork(settings.mask_threshold)
        case "tiny":
            return TinyNetwork()
        case "identity":
            return IdentityNetwork()
        case "timeline":
            from harness.timeline import network  # torch is loaded with it

            return network(max(settings.batch_sizes.values()))
        case "lama":
            from core.network import LaMa  # torch is loaded with it

            return LaMa(settings)
        case name:
            raise ValueError(
                f"{VARIABLE}={name}: it must be stub, tiny, identity, timeline or lama"
            )


def _tiny_fill(loaded: Loaded) -> Filled:
    filled = fill_mean(loaded.image, loaded.mask)
    if loaded.staged is None or not isinstance(filled, np.ndarray):
        return filled
    return pending(loaded, filled)


def _die_of_poison(batch: Sequence[Loaded]) -> None:
    if any(loaded.job.image_id == POISON for loaded in batch):
        os.kill(os.getpid(), signal.SIGKILL)
