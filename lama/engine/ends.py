"""The first and the last step of a batch on a device: from the bytes of pictures to results.

The first step makes the network's input from pictures and masks. The last one cuts results out of
what the network has filled, resizes them and reverses their channels. `CudaEnds` does both in
kernels, which are recorded with the network. They find pictures and results by a table of
addresses, which is all that a recording is given. `Ends` does both in torch's operations, which are
not recorded, on any device: it is the definition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from .nvrtc import kernels, numbers_of, pointers
from .pixels import masked, restored
from .sources import ENDS

logger = logging.getLogger(__name__)

#: Paints the network's input, B×H×W×4: the filled pictures, and whether each is finite.
Paint = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Batch, height, width.
Size = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture is on the device, and where its result goes."""

    #: uint8 H×W×3 and H×W.
    picture: Tensor
    mask: Tensor
    #: uint8, as many bytes as `size` needs, one after another.
    result: Tensor
    #: (height, width) of the result.
    size: tuple[int, int]
    #: (top, right, bottom, left) of the picture, which the result does not have.
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Places:
    """A batch of pictures of one size."""

    pictures: Sequence[Place]
    #: A mask value above it is a hole.
    threshold: int
    #: uint8 B, one after another: becomes 1 where what the network gives is finite.
    flags: Tensor
    #: Whether results are BGR.
    is_bgr: bool = False

    @property
    def size(self) -> Size:
        height, width = self.pictures[0].mask.shape
        return len(self.pictures), height, width


class Ends:
    """Both steps in torch's operations."""

    def given(self, places: Places) -> Tensor:
        """What a recording is given."""
        return masked(
            torch.stack([place.picture for place in places.pictures]),
            torch.stack([place.mask for place in places.pictures]),
            places.threshold,
        )

    def run(self, paint: Paint, size: Size, given: Tensor) -> tuple[Tensor, ...]:
        """What is recorded."""
        return paint(given)

    def take(self, places: Places, found: Sequence[Tensor]) -> None:
        """Writes results and flags, with what `run` has found."""
        filled, finite = found
        for place, picture in zip(places.pictures, filled, strict=True):
            result = restored(picture, place.padding, place.size)
            result = result.flip(-1) if places.is_bgr else result
            place.result.view(result.shape).copy_(result)
        places.flags.copy_(finite)


class CudaEnds(Ends):
    """Both steps in kernels. Raises RuntimeError or OSError if they cannot be compiled, or fail."""

    def __init__(self, device: torch.device) -> None:
        self._gather, self._restore = kernels(ENDS, ("gather", "restore"), device)
        require_same(self, Ends(), device)

    def given(self, places: Places) -> Tensor:
        """The table, on the host: a line of addresses and numbers for each picture."""
        table = np.empty((len(places.pictures), _FIELDS), np.int64)
        flag = places.flags.data_ptr()
        for line, place in enumerate(places.pictures):
            height, width = place.mask.shape
            top, right, bottom, left = place.padding
            table[line] = (
                place.picture.data_ptr(),
                *place.picture.stride()[:2],
                place.mask.data_ptr(),
                *place.mask.stride(),
                place.result.data_ptr(),
                *place.size,
                flag + line,
                places.threshold,
                top,
                left,
                height - top - bottom,
                width - left - right,
                places.is_bgr,
            )
        host = torch.from_numpy(table)
        return _pinned(host) if places.flags.is_cuda else host

    def run(self, paint: Paint, size: Size, given: Tensor) -> tuple[Tensor, ...]:
        batch, height, width = size
        pixels = torch.empty((batch, height, width, 4), dtype=torch.uint8, device=given.device)
        numbers = numbers_of(height, width)
        self._gather((width, height, batch), [*pointers(given, pixels), *numbers])
        filled, finite = paint(pixels)
        filled = filled.contiguous()
        arguments = [*pointers(given, filled, finite), *numbers]
        self._restore((height * width, 1, batch), arguments)
        return ()

    def take(self, places: Places, found: Sequence[Tensor]) -> None:
        """Nothing is left to do."""


#: The numbers in a line of the table: those of `Place` in `sources`.
_FIELDS: Final = 16


def whole(pixels: Tensor) -> tuple[Places, Tensor]:
    """The network's input, B×H×W×4, as places whose results are whole pictures, B×H×W×3."""
    batch, height, width, _ = pixels.shape
    results = torch.empty((batch, height, width, 3), dtype=torch.uint8, device=pixels.device)
    flags = torch.empty(batch, dtype=torch.uint8, device=pixels.device)
    places = [
        Place(given[..., :3], given[..., 3], result.view(-1), (height, width))
        for given, result in zip(pixels, results, strict=True)
    ]
    return Places(places, 0, flags), results


def require_same(ends: Ends, expected: Ends, device: torch.device) -> None:
    """Raises RuntimeError unless both give the same results for an example."""

    def paint(pixels: Tensor) -> tuple[Tensor, Tensor]:
        finite = torch.tensor([True, False], device=device)
        return pixels[..., :3] + pixels[..., 3:] // 3, finite

    both = []
    for some in (ends, expected):
        places = _example(device)
        found = some.run(paint, places.size, some.given(places).to(device))
        some.take(places, found)
        both.append([place.result.int() for place in places.pictures] + [places.flags.int()])
    (one, resized, flags), (wanted, also, expected_flags) = both
    if not (
        torch.equal(one, wanted)
        and torch.equal(flags, expected_flags)
        # torch resizes with roundings of its own.
        and int((resized - also).abs().max()) <= 1
    ):
        raise RuntimeError("the kernels for masks and results do not do what they should")


def _example(device: torch.device) -> Places:
    """Two parts of canvases, one of which is enlarged."""
    pictures, masks = (
        (torch.arange(2 * 20 * 40 * many, device=device) * 7 % 251).to(torch.uint8)
        for many in (3, 1)
    )
    pictures, masks = pictures.view(2, 20, 40, 3)[:, :, 8:32], masks.view(2, 20, 40)[:, :, 8:32]
    padding = (1, 2, 3, 4)
    places = [
        Place(
            picture,
            mask,
            torch.zeros(3 * size[0] * size[1], dtype=torch.uint8, device=device),
            size,
            padding,
        )
        for picture, mask, size in zip(pictures, masks, ((16, 18), (33, 25)), strict=True)
    ]
    return Places(places, 100, torch.full((2,), 9, dtype=torch.uint8, device=device), is_bgr=True)


def ends_for(device: torch.device) -> Ends:
    """The kernels of a GPU, or torch's operations if that fails."""
    try:
        return CudaEnds(device)
    except (RuntimeError, OSError, AttributeError) as error:  # an old library lacks functions
        text = str(error).splitlines()[0]
        logger.warning("masks and results are not handled by kernels of our own: %s", text)
        return Ends()


def _pinned(table: Tensor) -> Tensor:
    """A copy that a device reads while the host goes on."""
    try:
        return table.pin_memory()
    except RuntimeError:  # said by those who pin more
        return table
