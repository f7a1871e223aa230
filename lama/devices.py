"""The GPU that torch sees, and its memory. Importing this module does not load torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device, with its memory in bytes."""

    name: str
    free: int
    size: int


@dataclass(frozen=True, slots=True)
class Torch:
    """The installed torch, and the GPU that it would use, if there is one."""

    version: str
    gpu: Gpu | None


def installed_torch() -> Torch:
    """Loads torch and describes it; raises ImportError where it is not installed."""
    import torch

    if not torch.cuda.is_available():
        return Torch(str(torch.__version__), None)
    free, size = torch.cuda.mem_get_info()
    return Torch(str(torch.__version__), Gpu(torch.cuda.get_device_name(), free, size))


def device_memory() -> dict[str, int]:
    """Bytes of GPU memory: allocated to tensors, reserved by torch, and the size of all of it.

    Empty without a GPU in use. Loads nothing.
    """
    torch: Any = sys.modules.get("torch")  # not imported: that takes seconds
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return {}
    return {
        "allocated": cuda.memory_allocated(),
        "reserved": cuda.memory_reserved(),
        "size": cuda.get_device_properties(cuda.current_device()).total_memory,
    }
