"""Copies pictures to a GPU and back while it computes others.

Copies run on two streams of their own, one in each direction, from and to pinned memory, which the
system does not move. The waits are:

    upload    up: copy, mark            compute: waits for the mark, reads
    download  compute: writes, mark     down: waits for the mark, copies, marks; the host waits

The memory that a copy reads or writes is kept until its mark is reached, even if nothing else
refers to it.
"""

from __future__ import annotations

import itertools
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
    """A picture and its mask, uint8 of any shape, on the device or on the way there."""

    picture: Tensor
    mask: Tensor
    #: Holds both.
    memory: Tensor
    arrived: Mark
    #: Those with a higher number arrive later.
    number: int


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
        self._numbers = itertools.count()
        self._under_way: list[tuple[Mark, tuple[object, ...]]] = []

    def place(self, shape: Sequence[int]) -> Bytes:
        """An uninitialised array in C order, to read a picture or a mask into."""
        return self._pinned.take(shape)

    def upload(self, picture: Bytes, mask: Bytes) -> Staged:
        """Starts to copy two arrays, which must not be changed meanwhile.

        Only what is in one piece in pinned memory is copied without the host.
        """
        hosts = [torch.from_numpy(array.reshape(-1)) for array in (picture, mask)]
        sizes = [len(host) for host in hosts]
        memory = self._streams.empty((sum(sizes),), self._up)
        there = memory.split_with_sizes(sizes)
        for target, source in zip(there, hosts, strict=True):
            self._streams.copy(target, source, self._up)
        with self._lock:
            arrived, number = self._streams.mark(self._up), next(self._numbers)
        self._keep(arrived, *hosts, memory)
        shown, holes = there[0].view(picture.shape), there[1].view(mask.shape)
        return Staged(shown, holes, memory, arrived, number)

    def await_arrival(self, staged: Sequence[Staged]) -> None:
        """Makes the computing stream wait until all of them are there."""
        if staged:
            self._streams.wait(None, max(staged, key=lambda one: one.number).arrived)
        for one in staged:
            self._streams.used(one.memory, None)

    def download(self, tensors: Sequence[Tensor]) -> list[Download]:
        """Starts to copy tensors when they are computed; they must not be written to meanwhile."""
        arrays = [self._pinned.take(tensor.shape) for tensor in tensors]
        hosts = [torch.from_numpy(array) for array in arrays]
        self._streams.wait(self._down, self._streams.mark(None))
        for host, tensor in zip(hosts, tensors, strict=True):
            self._streams.copy(host, tensor, self._down)
        arrived = self._streams.mark(self._down)
        self._keep(arrived, *hosts, *tensors)
        return [Download(array, arrived, self._streams) for array in arrays]

    def _keep(self, mark: Mark, *used: object) -> None:
        with self._lock:
            under_way = [copy for copy in self._under_way if not self._streams.reached(copy[0])]
            self._under_way = [*under_way, (mark, used)]
