"""The published import path of `lama.inference`: `from lama.bin.inference import load_lama_model`.

Pipelines import these names from here; inside this project they come from `lama.inference`.
"""

from __future__ import annotations

from lama.inference import batch_inference, engine_of, load_lama_model, prepare, usable_device
from lama.padding import restore_from_padding

__all__ = [
    "batch_inference",
    "engine_of",
    "load_lama_model",
    "prepare",
    "restore_from_padding",
    "usable_device",
]
