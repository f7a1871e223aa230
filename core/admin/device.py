"""GPU memory, if the worker uses a GPU."""

from __future__ import annotations

import sys
from typing import Any, Final

DEVICE_MEMORY: Final = {
    "allocated": "GPU memory in tensors.",
    "reserved": "GPU memory that torch holds.",
    "size": "GPU memory in all.",
}


def device_memory() -> dict[str, int]:
    """Bytes of GPU memory in use; empty without a GPU in use."""
    torch: Any = sys.modules.get("torch")  # not imported here: that takes seconds
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return {}
    return {
        "allocated": cuda.memory_allocated(),
        "reserved": cuda.memory_reserved(),
        "size": cuda.get_device_properties(cuda.current_device()).total_memory,
    }
