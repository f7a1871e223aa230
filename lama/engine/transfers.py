"""Copies pictures to a GPU and back while it computes others.

Copies run on two streams of their own, one in each direction, from and to pinned memory, which the
system does not move. The waits are:

    upload    up: copy, mark            compute: waits for the mark, reads
    download  compute: writes, mark     down: waits for the mark, copies, marks; the host waits

The memory that a copy reads or writes is kept until its mark is reached, even if nothing else
refers to it.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]

#: All rows and columns of a picture.
WHOLE = slice(None), slice(None)

#: A stream of the device, and a mark that it reaches when it has done everything before it.
Stream = Any
Mark = Any


class Streams(Protocol):
    """A device that works in parallel to its host. The stream None is the one that computes."""

    def stream(self) -> Stream: ...

    def empty(self, shape: Sequence[int], stream: Stream) -> Tensor:
        """An uninitialised uint8 tensor on the device, for use by `stream` from now on."""

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        """Starts a copy on `stream`; returns at once."""

    def mark(self, stream: Stream | None) -> Mark: ...

    def wait(self, stream: Stream | None, mark: Mark) -> None:
        """Makes `stream` wait; returns at once."""

    def reached(self, mark: Mark) -> bool: ...

    def join(self, mark: Mark) -> None:
        """Waits on the host. Raises RuntimeError if the device has failed."""

    def used(self, tensor: Tensor, stream: Stream | None) -> None:
        """Keeps a tensor's memory until `stream` has done everything that it was given so far."""

    def pinned(self, size: int) -> Tensor:
        """Pinned uint8 memory on the host. Raises RuntimeError if there is none."""


class Cuda:
    """The `Streams` of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stream(self) -> Stream:
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def empty(self, shape: Sequence[int], stream: Stream) -> Tensor:
        with torch.cuda.stream(stream):
            return torch.empty(tuple(shape), dtype=torch.uint8, device=self._device)

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def mark(self, stream: Stream | None) -> Mark:
        # Who waits for it sleeps: a spinning thread would take a core from those that copy.
        mark = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        mark.record(self._given(stream))
        return mark

    def wait(self, stream: Stream | None, mark: Mark) -> None:
        self._given(stream).wait_event(mark)

    def reached(self, mark: Mark) -> bool:
        return bool(mark.query())

    def join(self, mark: Mark) -> None:
        mark.synchronize()

    def used(self, tensor: Tensor, stream: Stream | None) -> None:
        tensor.record_stream(self._given(stream))

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def _given(self, stream: Stream | None) -> Any:
        return torch.cuda.current_stream(self._device) if stream is None else stream


_said = threading.Event()


def say_unpinned(error: RuntimeError) -> None:
    """Logs once that there is no pinned memory."""
    if not _said.is_set():
        _said.set()
        logger.warning(
            "no pinned memory (%s): copies to and from the device are slower",
            str(error).splitlines()[0],
        )


class Pinned:
    """Blocks of pinned memory, taken once and used again.

    A picture that does not fit gets ordinary memory, which is only slower to copy. So does every
    picture on a machine without pinned memory.
    """

    def __init__(self, streams: Streams, blocks: int, size: int) -> None:
        """`size`: bytes of a block."""
        self._size = size
        self._free: list[Tensor] = []
        #: Arrays that found no free block: copies to and from them are slower.
        self.missed = 0
        try:
            self._free += streams.pinned(blocks * size).view(blocks, size)
        except RuntimeError as error:
            say_unpinned(error)
        self._blocks = len(self._free)

    def take(self, shape: Sequence[int]) -> Bytes:
        """An uninitialised array; its block is free again when no view of the array is left."""
        size = math.prod(shape)
        try:
            block = self._free.pop() if size <= self._size else None
        except IndexError:
            block = None
            self._note_missed()
        if block is None:
            return np.empty(tuple(shape), np.uint8)
        # Every view of `array` keeps it alive, as its own base is not an array.
        array = block[:size].numpy()
        weakref.finalize(array, self._free.append, block).atexit = False
        return array.reshape(tuple(shape))

    def _note_missed(self) -> None:
        self.missed += 1
        if self.missed == 1 and self._blocks:
            logger.warning(
                "all %d blocks of pinned memory are in use: some copies to and from the device "
                "are slower (this is logged once)",
                self._blocks,
            )


@dataclass(frozen=True, slots=True)
class Staged:
    """A picture (H×W×3) and its mask (H×W), uint8, on the device or on the way there."""

    picture: Tensor
    mask: Tensor
    arrived: Mark


@dataclass(frozen=True, slots=True)
class Download:
    """A picture on its way to the host."""

    _array: Bytes
    _arrived: Mark
    _streams: Streams

    def result(self) -> Bytes:
        """Waits for the picture. Raises RuntimeError if the device has failed."""
        self._streams.join(self._arrived)
        return self._array


class Transfers:
    """Copies between one device and its host; any thread may call its methods."""

    def __init__(self, streams: Streams, blocks: int, block_size: int) -> None:
        """At most `blocks` of `block_size` bytes are pinned."""
        self._streams = streams
        self._up, self._down = streams.stream(), streams.stream()
        self._pinned = Pinned(streams, blocks, block_size)
        self._lock = threading.Lock()
        self._under_way: list[tuple[Mark, tuple[object, ...]]] = []

    def place(self, shape: Sequence[int]) -> Bytes:
        """An uninitialised array in C order, to read a picture or a mask into."""
        return self._pinned.take(shape)

    def upload(self, picture: Bytes, mask: Bytes, part: tuple[slice, slice] = WHOLE) -> Staged:
        """Starts to copy rows and columns of H×W×3 and H×W, which must not be changed meanwhile.

        Rows cross the bus whole, and their columns are cut on the device: only what is in one
        piece in pinned memory is copied without the host.
        """
        rows, columns = part
        picture, mask = picture[rows], mask[rows]
        hosts = torch.from_numpy(picture), torch.from_numpy(mask)
        there = [self._streams.empty(host.shape, self._up) for host in hosts]
        for target, source in zip(there, hosts, strict=True):
            self._streams.copy(target, source, self._up)
        arrived = self._streams.mark(self._up)
        self._keep(arrived, *hosts, *there)
        return Staged(there[0][:, columns], there[1][:, columns], arrived)

    def await_arrival(self, staged: Staged) -> None:
        """Makes the computing stream wait until the picture is there."""
        self._streams.wait(None, staged.arrived)
        self._streams.used(staged.picture, None)
        self._streams.used(staged.mask, None)

    def download(self, tensor: Tensor) -> Download:
        """Starts to copy `tensor` when it is computed; it must not be written to any more."""
        array = self._pinned.take(tensor.shape)
        host = torch.from_numpy(array)
        self._streams.wait(self._down, self._streams.mark(None))
        self._streams.copy(host, tensor, self._down)
        arrived = self._streams.mark(self._down)
        self._keep(arrived, host, tensor)
        return Download(array, arrived, self._streams)

    def _keep(self, mark: Mark, *used: object) -> None:
        with self._lock:
            under_way = [copy for copy in self._under_way if not self._streams.reached(copy[0])]
            self._under_way = [*under_way, (mark, used)]
