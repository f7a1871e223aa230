"""Writes checkpoints in the published container, so that nothing can be left half-written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: In front of the generator's keys in a published checkpoint, whose own begin with `model.`.
PREFIX = "generator."


def write_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """torch.save into a file beside `path`, which then takes its place in one step.

    Whenever it is interrupted, `path` is the old file or the new one, whole.
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
    # Convolutions have four axes; no batch norm's tensor has more than one.
    return torch.float16 if half and tensor.ndim == 4 else tensor.dtype
