"""Limits on what torch takes of the machine: its threads, and its caches of kernels.

Importing this module does not load torch.
"""

from __future__ import annotations

import logging
import math
import os
from typing import Final

logger = logging.getLogger(__name__)

#: The number of kernels, each made for one size of picture, that are kept, by the two variables
#: that PyTorch and oneDNN read when they are first used (1024 by default). A picture takes some
#: dozens; above the limit the least recently used ones are dropped, and made again when needed.
KERNEL_CACHES: Final = {"LRU_CACHE_CAPACITY": "256", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}


def bound_kernel_caches() -> None:
    """Limits the kernel caches, so that pictures of ever new sizes do not fill memory with kernels.

    There are two caches, PyTorch's on top of oneDNN's. A variable that is already set stays. Must
    be called before torch computes anything.
    """
    for name, capacity in KERNEL_CACHES.items():
        os.environ.setdefault(name, capacity)


def bound_threads(cores: float | None) -> None:
    """Limits torch to as many threads as there are `cores`; None is no limit.

    Torch starts a thread for each core that it sees, even where the process may use less time. A
    number set with OMP_NUM_THREADS stays. Holds for the calling thread, and for threads that have
    not computed yet.
    """
    import torch

    usual = torch.get_num_threads()
    # A part of a core is worth a thread: with 1.5, two are a third faster than one.
    allowed = usual if cores is None else max(1, math.ceil(cores))
    if allowed < usual and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(allowed)
        logger.info(
            "threads: %d of %d, as this container is limited to %.1f cores", allowed, usual, cores
        )
