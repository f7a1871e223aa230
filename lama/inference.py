"""The network on pictures and masks: loads a checkpoint, and fills the holes of a batch.

`lama.bin.inference` publishes these names.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from lama.engine import Engine
from lama.engine.precision import decide
from lama.padding import pad, padded_side
from lama.saicinpainting.paths import not_a_file
from lama.saicinpainting.training.trainers import (
    InpaintingModel,
    as_train_config,
    load_checkpoint,
    load_train_config,
)

logger = logging.getLogger(__name__)


def load_lama_model(
    config_path: str | os.PathLike[str] | None,
    checkpoint_path: str | os.PathLike[str],
    device: str | torch.device,
) -> tuple[InpaintingModel, DictConfig]:
    """Loads the network in eval mode on `device`; returns it and its training config.

    The layout is read off the weights. A config only has to agree with them: without one, or if
    that file is not there, which is logged, the config returned has the section `generator` alone.
    Raises CheckpointError (see lama/saicinpainting/training/trainers/errors.py) if a file is
    unsuitable, ValueError if there
    is no such device.
    """
    device = usable_device(device)
    given = load_train_config(config_path) if config_path and _is_there(config_path) else None
    model = load_checkpoint(given, checkpoint_path, map_location=device)
    if given is None:
        given = OmegaConf.create(as_train_config(model.generator.config))
    return model, given


def _is_there(config_path: str | os.PathLike[str]) -> bool:
    # Docker makes a folder where the file to mount is missing.
    if (what := not_a_file(config_path)) is None:
        return True
    logger.warning(
        "there is no config file %s (%s): the network's layout is read off its weights",
        config_path,
        what,
    )
    return False


def usable_device(device: str | torch.device) -> torch.device:
    """The device with that name; raises ValueError if torch does not know it or does not see it."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r}: 'cpu', 'cuda' or 'cuda:0' is needed") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r}: torch sees no CUDA device; use 'cpu'")
    return found


def batch_inference(
    images_np: Sequence[np.ndarray],
    masks_np: Sequence[np.ndarray],
    model: InpaintingModel,
    train_config: DictConfig | dict[str, Any],
    device: str | torch.device,
    use_fp16: bool,
    mask_threshold: int = 0,
) -> list[np.ndarray]:
    """Fills the holes; returns new uint8 H×W×3 RGB arrays, in the order given.

    `images_np`: uint8 H×W×3 RGB, any sizes from 1×1 up. `masks_np`: uint8 H×W or H×W×1; a value
    above `mask_threshold` is a hole. Outside the hole a result has the picture's own bytes; a
    picture without a hole is copied. `use_fp16` allows half precision where the device is
    faster in it. `train_config` is ignored, as the model knows its own layout; callers pass the one
    from `load_lama_model`. Raises ValueError, which names the argument, index and value, for input
    of another form, and FloatingPointError for weights that give no finite output.
    """
    holes = _checked_holes(images_np, masks_np, mask_threshold)
    results = [np.array(image, order="C") for image in images_np]
    unit = model.generator.config.unit
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, hole in enumerate(holes):
        if hole.any():
            height, width = hole.shape
            groups[padded_side(height, unit), padded_side(width, unit)].append(index)
    engine = engine_of(model, device, decide(device, use_fp16).dtype)
    for size, group in groups.items():
        pictures = np.stack([pad(results[index], size) for index in group])
        padded = np.stack([pad(holes[index], size) for index in group])
        fills = engine.fill(pictures, padded)
        for index, fill in zip(group, fills, strict=True):
            if fill is None:
                raise FloatingPointError(
                    f"images_np[{index}]: the network's output is not finite, in float32 "
                    "either; use other weights"
                )
            height, width = holes[index].shape
            results[index] = np.ascontiguousarray(fill[:height, :width])
    return results


#: The engines of each model; they are dropped together with it.
_engines: weakref.WeakKeyDictionary[
    InpaintingModel, dict[tuple[torch.device, torch.dtype], Engine]
] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def engine_of(model: InpaintingModel, device: str | torch.device, dtype: torch.dtype) -> Engine:
    """The model's engine for `device` and `dtype`, which the first call makes."""
    key = torch.device(device), dtype
    with _making:
        engines = _engines.setdefault(model, {})
        if key not in engines:
            engines[key] = Engine(model.generator, *key)
        return engines[key]


def prepare(
    model: InpaintingModel,
    device: str | torch.device,
    use_fp16: bool,
    batches: Sequence[tuple[int, int, int]],
) -> None:
    """Prepares `batches` (count, height, width), so that the first of a kind is not slower.

    On a GPU each takes seconds; other calls are served in between.
    """
    engine = engine_of(model, device, decide(device, use_fp16).dtype)
    for batch in batches:
        engine.prepare(*batch)


def _checked_holes(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], threshold: int
) -> list[np.ndarray]:
    """The masks as bool H×W; raises ValueError for pictures or masks of another form."""
    if len(images) != len(masks):
        raise ValueError(f"{len(images)} images_np but {len(masks)} masks_np: one mask per picture")
    holes = []
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        for name, array in (("images_np", image), ("masks_np", mask)):
            if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
                what = getattr(array, "dtype", type(array).__name__)
                raise ValueError(f"{name}[{index}] is {what}: a uint8 array is needed")
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"images_np[{index}] has shape {image.shape}: H×W×3 is needed")
        if mask.shape not in (image.shape[:2], (*image.shape[:2], 1)):
            raise ValueError(
                f"masks_np[{index}] has shape {mask.shape}, its picture {image.shape}: H×W or "
                "H×W×1 of the picture's size is needed"
            )
        holes.append(mask.reshape(image.shape[:2]) > threshold)
    return holes
