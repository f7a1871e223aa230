"""Memory for pictures that is used again: fresh pages cost more than copying into old ones."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt

#: Bytes of unused memory that are kept.
MOST_UNUSED: Final = 128 << 20


def _own_references() -> int:
    """How many references a block has that is in a list, and looked at in a loop as below."""
    for block in [np.empty(0, np.uint8)]:
        return sys.getrefcount(block)
    raise AssertionError


_OWN_REFERENCES: Final = _own_references()


class Buffers:
    """Arrays over blocks of memory; a block is free again once no array refers to it.

    Nothing is given back by hand, so that nothing can be given back too early: an array over a
    block, and every view of such an array, holds on to the block.
    """

    def __init__(self) -> None:
        self._blocks: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def array(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> npt.NDArray[Any]:
        """A C-ordered array, not initialised."""
        size = math.prod(shape) * dtype.itemsize
        with self._lock:
            block = self._unused(size)
            if block is None:
                block = np.empty(size, np.uint8)
                self._blocks.append(block)
            return block[:size].view(dtype).reshape(shape)

    def _unused(self, size: int) -> npt.NDArray[np.uint8] | None:
        """A free block that holds `size` bytes and isn't twice as large.

        Free blocks beyond MOST_UNUSED are dropped.
        """
        kept, unused, found = [], 0, None
        for block in self._blocks:
            if sys.getrefcount(block) <= _OWN_REFERENCES:
                if found is None and size <= block.size < 2 * size:
                    found = block
                elif unused + block.size > MOST_UNUSED:
                    continue
                else:
                    unused += block.size
            kept.append(block)
        self._blocks = kept
        return found
