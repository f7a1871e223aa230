"""How glibc's malloc treats memory that is freed."""

from __future__ import annotations

import ctypes
import logging
from typing import Final

log = logging.getLogger(__name__)

#: The parameters of mallopt(3), by glibc's names.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

_NEVER: Final = -1
_LARGEST: Final = 1 << 30


def keep_freed_memory() -> None:
    """Makes malloc keep freed memory and use it again, in all threads and at all sizes.

    Otherwise glibc returns large blocks to the system at once, and each picture and each layer of
    the network pays for fresh pages: a fifth of the processor's time. The process never shrinks
    again. Must be called before threads are started; without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.debug("this C library has no mallopt: it decides itself what to keep of freed memory")
        return
    # Blocks come from the heap and not from mappings of their own. There is one heap, as only the
    # first can grow beyond 64 MB, and it never shrinks.
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_ARENA_MAX, 1)
    mallopt(_TRIM_THRESHOLD, _NEVER)
