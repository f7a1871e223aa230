"""What the stages hand to each other, and what is asked of the one in the middle, the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from core.contract import Job
from core.errors import TransientFailure

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A job with its pixels.

    `image` is H×W×3 RGB, `mask` H×W, where values above the threshold are holes, `original` the
    picture before it was shrunk: BGR, `job.original_size` × 3, or None. `owner` is the uid of the
    picture's segment, `began_at` when it was taken up, in unix seconds. `staged` is the network's
    own: image and mask on its device.
    """

    job: Job
    image: Picture
    mask: Picture
    original: Picture | None
    owner: int
    began_at: float = 0.0
    staged: Any = None


class Staging(Protocol):
    """A device with memory of its own, which copies what is loaded while it computes."""

    def place(self, shape: Sequence[int]) -> Picture:
        """A uint8 array, of any values, that is quick to copy."""

    def stage(self, picture: Picture, mask: Picture, original_size: Sequence[int]) -> Any:
        """Starts to copy H×W×3 RGB and H×W; None where that is left to the network."""


class Pending(Protocol):
    """A picture that is done, BGR, `original_size` × 3, but still on its way from the device."""

    def result(self) -> Picture:
        """The picture, once it is here. Raises RuntimeError if the device has failed."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A picture that needs no more to be done to it: BGR, `original_size` × 3."""

    pixels: Picture


#: For each job its picture with the hole filled, H×W×3 RGB, or finished, or why there is none.
Filled = Picture | Pending | Restored | TransientFailure


class Network(ABC):
    """The second stage, as the service sees it; all but two of its members may stay as they are."""

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

    def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Called once before it serves."""

    @property
    def half_fallbacks(self) -> int:
        """Pictures computed again in float32 so far, because half precision overflowed."""
        return 0

    def collect(self, pictures: Sequence[Filled]) -> Sequence[Filled]:
        """What `__call__` gave, when all of it has arrived from the device; nothing is pending.

        Called in a thread of its own, and only if something was. Raises DeviceFault as well.
        """
        return pictures


def is_pending(picture: Filled) -> TypeGuard[Pending]:
    """Whether a picture has to be waited for."""
    return not isinstance(picture, np.ndarray | Restored | TransientFailure)
