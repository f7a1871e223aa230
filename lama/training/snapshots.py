"""Writes checkpoints in the published container, atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: The prefix of the generator's keys (`model.…`) in a published checkpoint.
PREFIX = "generator."


def write_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """Saves into a file beside `path`, which then replaces it in one step.

    After an interruption `path` is either the old file or the new one, complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    passing = path.with_name(f".{path.name}.tmp")
    try:
        with passing.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(passing, path)
    finally:
        passing.unlink(missing_ok=True)


def container(
    state: Mapping[str, Tensor], step: int, half: bool = False, **others: Any
) -> dict[str, Any]:
    """A generator's state dict in the published layout, with `others` beside it.

    `half` stores convolutions as float16, half the size; batch norms, whose running variances
    leave its range, stay float32.
    """
    tensors = {
        f"{PREFIX}{key}": tensor.detach().to("cpu", _stored_dtype(tensor, half)).contiguous()
        for key, tensor in state.items()
    }
    return {"epoch": 0, "global_step": step, "state_dict": tensors, **others}


def _stored_dtype(tensor: Tensor, half: bool) -> torch.dtype:
    # Convolutions have four axes; tensors of batch norms have at most one.
    return torch.float16 if half and tensor.ndim == 4 else tensor.dtype
