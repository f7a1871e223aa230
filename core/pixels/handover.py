"""The values that the stages pass on, and the interface of the network, the stage in the middle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np

from core.contract import Job
from core.errors import TransientFailure
from core.pixels.arrays import Picture as Picture  # with the rest of the handover


@dataclass(frozen=True, slots=True)
class Loaded:
    """A job with its pixels.

    `image` is H×W×3 RGB. `mask` is H×W; values above the threshold are holes. `original` is the
    picture before it was shrunk, BGR, `job.original_size` × 3, or None; `original_mask` is its
    mask, uint8 of `job.original_size`, or None. `owner` is the uid of the
    picture's segment, `began_at` when loading began, in unix seconds. `staged` belongs to the
    network: image and mask on its device.
    """

    job: Job
    image: Picture
    mask: Picture
    original: Picture | None
    owner: int
    began_at: float = 0.0
    staged: Any = None
    original_mask: Picture | None = None


class Staging(Protocol):
    """A device with its own memory, to which loaded pictures are copied while it computes."""

    def place(self, shape: Sequence[int]) -> Picture:
        """An uninitialised uint8 array that is fast to copy to the device."""

    def stage(
        self, picture: Picture, mask: Picture, padding: Sequence[int], original_size: Sequence[int]
    ) -> Any:
        """Start to copy H×W×3 RGB and H×W, or what the network is shown of them.

        `padding` is (top, right, bottom, left). None if the network has to copy them itself.
        """


class Pending(Protocol):
    """A picture that is still being copied from the device; `Network.collect` waits for it."""

    def result(self) -> Picture:
        """Wait for the picture. Raises RuntimeError if the device has failed."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A finished picture: BGR, `original_size` × 3."""

    pixels: Picture


#: A job's picture with the hole filled (H×W×3 RGB), or finished, or why there is none.
Filled = Picture | Pending | Restored | TransientFailure


class Network(ABC):
    """The infer stage. Only `describe` and `__call__` must be overridden."""

    @property
    def staging(self) -> Staging | None:
        """A device that copies what is loaded while it computes, as soon as there is one."""
        return None

    @property
    def progressed_at(self) -> float:
        """time.monotonic() of the last step of a batch, for a network that works step by step.

        As long as it makes steps, such a network is slow, not hung.
        """
        return 0.0

    @abstractmethod
    def describe(self) -> str:
        """Device and precision, for the log."""

    @abstractmethod
    def __call__(self, batch: Sequence[Loaded]) -> Sequence[Filled]:
        """For each job its picture with the holes filled, H×W×3 RGB, or why there is none.

        Raises DeviceFault if only a new process can help.
        """

    def prepare(self) -> None:  # noqa: B027 - optional
        """Called once before serving."""

    @property
    def lacks_gpu(self) -> bool:
        """Whether the settings ask for a GPU and the CPU is used, because there is none."""
        return False

    @property
    def half_fallbacks(self) -> int:
        """Pictures computed again in float32 so far, because half precision overflowed."""
        return 0

    def collect(self, pictures: Sequence[Filled]) -> Sequence[Filled]:
        """Wait for the pending ones among the results of `__call__`; returns all results.

        Called in a thread of its own, and only if one is pending. May raise DeviceFault too.
        """
        return pictures


def is_pending(picture: Filled) -> TypeGuard[Pending]:
    """Whether a picture is still on its way from the device."""
    return not isinstance(picture, np.ndarray | Restored | TransientFailure)
