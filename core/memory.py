"""How this process deals with memory: what it frees, and what libraries keep."""

from __future__ import annotations

import ctypes
import logging
import os
from typing import Final

log = logging.getLogger(__name__)

#: glibc's names of what mallopt(3) sets.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

#: How many kernels, each made for one size of picture, are kept, by the two variables that PyTorch
#: and oneDNN read when they are first used (1024 by default). A picture takes some dozens; beyond
#: the number those that were not used for longest are dropped, and made again when needed.
KERNEL_CACHES: Final = {"LRU_CACHE_CAPACITY": "256", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}

_NEVER: Final = -1
_LARGEST: Final = 1 << 30


def settle_memory() -> None:
    """What every process does that has a network, before it starts threads or loads torch."""
    keep_freed_memory()
    bound_kernel_caches()


def keep_freed_memory() -> None:
    """Have malloc keep what is freed and use it again, for all threads and at all sizes.

    Otherwise glibc gives large blocks back to the system at once, and each picture, each layer of
    the network pays for fresh pages: a fifth of the processor's time. The process stays as large
    as it once was. To be called before threads are started; without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.debug("this C library has no mallopt: freed memory is its own affair")
        return
    # From the heap rather than from mappings of their own; one heap, as only the first can grow
    # beyond 64 MB; and the heap never shrinks.
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_ARENA_MAX, 1)
    mallopt(_TRIM_THRESHOLD, _NEVER)


def bound_kernel_caches() -> None:
    """Keep pictures of ever new sizes from filling memory with kernels made for each of them.

    There are two caches, PyTorch's on top of oneDNN's. What the environment says already stays. To
    be called before torch computes anything.
    """
    for name, capacity in KERNEL_CACHES.items():
        os.environ.setdefault(name, capacity)
