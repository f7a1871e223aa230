"""A batch that a device fills: started, judged and collected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lama.engine.ends import Place, Places
from lama.engine.engine import Engine
from lama.engine.transfers import Bytes, Download, Staged, Transfers


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a picture that the network is shown: all of it, its content, or a window."""

    #: uint8 H×W×3 and H×W on the device.
    picture: Tensor
    mask: Tensor
    #: (top, right, bottom, left) around what is kept, pixels.
    padding: tuple[int, int, int, int]
    #: (height, width) of the result.
    size: tuple[int, int]
    #: Cells of the decoder's grid with holes.
    cells: int = 0

    @property
    def bytes(self) -> int:
        """The size of the result."""
        return 3 * self.size[0] * self.size[1]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture that is staged on the device."""

    parts: Sequence[Part]
    #: The picture from its parts' results, which are one after another.
    finish: Callable[[Bytes], Bytes]
    #: None if the network is shown nothing.
    staged: Staged | None

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Group:
    """Parts of one size that are computed together, by their numbers in the batch."""

    numbers: Sequence[int]
    #: So many windows of the decoder hold all holes, or 0.
    windows: int = 0


class Launched:
    """A batch that the device fills. Its pictures are judged when the first one is collected."""

    def __init__(
        self,
        engine: Engine,
        transfers: Transfers,
        threshold: int,
        shown: Sequence[Shown],
        groups: Sequence[Group],
        is_bgr: bool,
    ) -> None:
        """Starts the batch; waits for nothing. Its parts are numbered in the order of `shown`."""
        self._engine, self._transfers, self._threshold = engine, transfers, threshold
        self._is_bgr = is_bgr
        self._finish = [one.finish for one in shown]
        self._parts = [part for one in shown for part in one.parts]
        #: Of each part its picture.
        self._owners = [index for index, one in enumerate(shown) for _ in one.parts]
        self._groups = groups
        self._lock = threading.Lock()
        #: Pictures that are not finite, in float32 either.
        self._failed: set[int] = set()
        self._flags: Download | None = None
        self._downloads: dict[int, Download] = {}
        if self._parts:
            self._launch(shown)

    def _launch(self, shown: Sequence[Shown]) -> None:
        # The order of the flags is that of the groups.
        self._order = [number for group in self._groups for number in group.numbers]
        with self._engine.turns:
            self._transfers.await_arrival([one.staged for one in shown if one.staged is not None])
            sizes = [one.bytes for one in shown]
            device = self._parts[0].picture.device
            # The batch's own memory, as the next one may be computed before it is copied back.
            memory = torch.empty(sum(sizes) + len(self._parts), dtype=torch.uint8, device=device)
            *pictures, flags = memory.split_with_sizes([*sizes, len(self._parts)])
            self._pictures = pictures
            self._results = [
                result
                for picture, one in zip(pictures, shown, strict=True)
                for result in _split(picture, [part.bytes for part in one.parts])
            ]
            counts = [len(group.numbers) for group in self._groups]
            self._is_exact = [
                self._engine.launch(self._places(group.numbers, own), group.windows)
                for group, own in zip(self._groups, _split(flags, counts), strict=True)
            ]
            there = {index: one for index, one in enumerate(pictures) if len(one)}
            self._flags, *rest = self._transfers.download([flags, *there.values()])
            self._downloads = dict(zip(there, rest, strict=True))

    def result(self, index: int) -> Bytes:
        """A picture of the batch, once it is there.

        Raises FloatingPointError for weights that give no finite output, RuntimeError if the device
        has failed.
        """
        with self._lock:
            if self._flags is not None:
                self._judge(self._flags.result())
                self._flags, self._parts, self._pictures, self._results = None, [], [], []
        if index in self._failed:
            raise FloatingPointError(
                "the network's output is not finite, in float32 either; use other weights"
            )
        download = self._downloads.get(index)
        found = np.empty(0, np.uint8) if download is None else download.result()
        return self._finish[index](found)

    def _judge(self, flags: Bytes) -> None:
        """Computes again what is not finite; its inputs are still on the device."""
        broken = {number for number, flag in zip(self._order, flags, strict=True) if not flag}
        in_half = [
            group.numbers
            for group, is_exact in zip(self._groups, self._is_exact, strict=True)
            if not is_exact
        ]
        overflowed = [[number for number in numbers if number in broken] for numbers in in_half]
        if in_half:
            self._engine.judge(sum(map(len, overflowed)), sum(map(len, in_half)))
        for numbers in filter(None, overflowed):
            broken.difference_update(self._computed_again(numbers))
        self._failed = {self._owners[number] for number in broken}

    def _computed_again(self, numbers: Sequence[int]) -> list[int]:
        """Computes parts of one group in float32; returns those that are finite now."""
        owners = sorted({self._owners[number] for number in numbers})
        with self._engine.turns:
            flags = self._results[0].new_empty(len(numbers))
            self._engine.launch_exactly(self._places(numbers, flags))
            # The whole pictures anew: what was copied before them is there.
            pictures = [self._pictures[owner] for owner in owners]
            done, *again = self._transfers.download([flags, *pictures])
        self._downloads.update(zip(owners, again, strict=True))
        return [number for number, flag in zip(numbers, done.result(), strict=True) if flag]

    def _places(self, numbers: Sequence[int], flags: Tensor) -> Places:
        places = [
            Place(part.picture, part.mask, self._results[number], part.size, part.padding)
            for number in numbers
            for part in (self._parts[number],)
        ]
        return Places(places, self._threshold, flags, self._is_bgr)


@dataclass(frozen=True, slots=True)
class Arriving:
    """A picture on its way back."""

    _batch: Launched
    _index: int

    def result(self) -> Bytes:
        """The picture, once it is there; raises what `Launched.result` raises."""
        return self._batch.result(self._index)


def _split(memory: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """`memory` in parts of these sizes."""
    return [memory] if len(sizes) == 1 else memory.split_with_sizes(sizes)
