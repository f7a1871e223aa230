"""Reads the numbers of tensors that a pickle has only described."""

from __future__ import annotations

import math
import mmap
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError
from .pickles import Storage, StoredTensor

#: Types of storages: all that torch writes under a name of their own.
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class Place(NamedTuple):
    """Where a storage's bytes are in the file."""

    start: int
    size: int
    #: What zlib.crc32 gives of them; 0 where it was not computed, as set_crc32_options allows.
    crc: int = 0

    def checked(self, mapped: mmap.mmap) -> memoryview:
        """The bytes; raises ValueError if they are not those that were saved."""
        content = memoryview(mapped)[self.start : self.start + self.size]
        if self.crc and zlib.crc32(content) != self.crc:
            raise ValueError(f"{self.size} bytes at {self.start} do not have their checksum")
        return content


class Numbers:
    """The file's storages. It is mapped, so that optimizer and discriminator are never read."""

    def __init__(self, mapped: mmap.mmap, places: Mapping[str, Place]) -> None:
        self._mapped = mapped
        self._places = places
        self._checked: set[str] = set()

    def tensor(self, stored: StoredTensor) -> Tensor:
        """The tensor, which may lie in the mapped file."""
        dtype = dtype_of(stored.storage)
        place = self._places.get(stored.storage.key)
        if place is None:
            raise ValueError(f"a tensor's numbers ({stored.storage.key[:40]}) are missing")
        if math.prod(stored.shape) == 0:
            return torch.empty(stored.shape, dtype=dtype)
        reach = 1 + sum(
            (length - 1) * stride
            for length, stride in zip(stored.shape, stored.strides, strict=True)
        )
        first = (stored.storage.start + stored.offset) * dtype.itemsize
        size = reach * dtype.itemsize
        available = min(place.size, len(self._mapped) - place.start)
        if stored.offset + reach > stored.storage.count or first + size > available:
            raise ValueError("a tensor reaches past its bytes")
        if stored.storage.key not in self._checked:
            # Only what is used. Torch itself never does: it would compute with a flipped bit.
            place.checked(self._mapped)
            self._checked.add(stored.storage.key)
        start = place.start + first
        raw = torch.frombuffer(self._mapped, dtype=torch.uint8, count=size, offset=start)
        if start % dtype.itemsize:
            # Numbers must be aligned in memory, which in old files they are not.
            raw = raw.clone()
        return raw.view(dtype).as_strided(stored.shape, stored.strides)


def dtype_of(storage: Storage) -> torch.dtype:
    if storage.kind not in DTYPES:
        raise CheckpointError(
            f"it has numbers in a {storage.kind[:40]}, which no LaMa has; float32 is needed"
        )
    return DTYPES[storage.kind]
