"""`InpaintingModel` and its loader.

The folders `training/trainers` and `training/modules` are named as in the original project, whose
import paths must work: `load_checkpoint` is needed for every inference. Training is in
`lama.training`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ..modules.ffc import FFCResNetGenerator, GeneratorConfig
from ..modules.precision import exact_float32
from .checkpoints import read_generator_state
from .config import generator_config, load_train_config
from .errors import CheckpointError, ConfigError, MismatchError, UnsafeCheckpointError, one_line
from .layout import as_train_config, differences, disagreement, layout_of

__all__ = [
    "CheckpointError",
    "ConfigError",
    "InpaintingModel",
    "MismatchError",
    "UnsafeCheckpointError",
    "as_train_config",
    "load_checkpoint",
    "load_train_config",
]


class InpaintingModel(nn.Module):
    """A generator with its pre- and postprocessing, in float32, for inference only."""

    def __init__(self, generator: FFCResNetGenerator) -> None:
        super().__init__()
        self.generator = generator

    @torch.no_grad()
    def predict(self, image: Tensor, mask: Tensor) -> Tensor:
        """The generator's output, B×3×H×W float32 in [0, 1], inside and outside the hole.

        `image` is B×3×H×W in [0, 1], `mask` B×1×H×W with 1 in the hole, both float32; H and W are
        multiples of 8, at least 16. `lama.engine` computes the same faster.
        """
        masked = torch.cat([image * (1 - mask), mask], dim=1)
        if masked.device.type == "cpu":
            # Half the time of the default layout on a CPU.
            masked = masked.contiguous(memory_format=torch.channels_last)
        with exact_float32():
            predicted: Tensor = self.generator(masked)
        return predicted

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds `predicted_image` and `inpainted`, B×3×H×W float32, to `image` and `mask`."""
        image, mask = batch["image"], batch["mask"]
        batch["predicted_image"] = self.predict(image, mask)
        batch["inpainted"] = mask * batch["predicted_image"] + (1 - mask) * image
        return batch


def load_checkpoint(
    train_config: DictConfig | Mapping[str, Any] | None,
    path: str | os.PathLike[str],
    map_location: str | torch.device = "cpu",
    strict: bool = True,
) -> InpaintingModel:
    """The network of `path`, in eval mode; with a `train_config`, only if it describes that.

    `strict=False` ignores surplus keys; missing ones are an error either way. Raises
    CheckpointError: ConfigError for the config, MismatchError where the two files disagree or
    where no such network can be made.
    """
    said = None if train_config is None else generator_config(train_config)
    state = read_generator_state(path)
    try:
        generator = _fitting(state, said, strict)
    except MismatchError as error:
        raise MismatchError(f"{os.fspath(path)}: {one_line(error)}") from error
    expected = generator.state_dict()
    generator.load_state_dict({key: state[key] for key in expected}, assign=True)
    model = InpaintingModel(generator).eval().requires_grad_(False)
    return model.to(map_location)


def _fitting(
    state: Mapping[str, Tensor], said: GeneratorConfig | None, strict: bool
) -> FFCResNetGenerator:
    """A network without weights that these fit; raises MismatchError."""
    found = layout_of(state)
    if said is not None and (text := differences(found, said)):
        raise MismatchError(text)
    # Without storage: the file's tensors become the parameters, so nothing is initialised.
    with torch.device("meta"):
        generator = FFCResNetGenerator(said or found)
    if text := disagreement(generator, state, strict):
        raise MismatchError(f"{text}: {_NOT_FITTING if said is None else _NOT_AGREEING}")
    return generator


_NOT_AGREEING = "take the file's own config, or none"

_NOT_FITTING = "the file is incomplete, or of another kind of network"
