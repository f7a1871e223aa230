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

from ..modules.ffc import FFCResNetGenerator
from ..modules.precision import exact_float32
from .checkpoints import STEM, first_few, read_generator_state
from .config import generator_config, load_train_config
from .errors import CheckpointError, ConfigError, MismatchError, UnsafeCheckpointError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "InpaintingModel",
    "MismatchError",
    "UnsafeCheckpointError",
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
    train_config: DictConfig | Mapping[str, Any],
    path: str | os.PathLike[str],
    map_location: str | torch.device = "cpu",
    strict: bool = True,
) -> InpaintingModel:
    """The network that `train_config` describes, with the weights of `path`, in eval mode.

    `strict=False` ignores surplus keys; missing ones are an error either way. Raises
    CheckpointError: ConfigError for the config, MismatchError where the two files disagree.
    """
    # Without storage: the file's tensors become the parameters, so nothing is initialised.
    with torch.device("meta"):
        generator = FFCResNetGenerator(generator_config(train_config))
    state = read_generator_state(path)
    problem = _disagreement(generator, state, strict)
    if problem:
        raise MismatchError(f"{os.fspath(path)}: {problem}")
    expected = generator.state_dict()
    generator.load_state_dict({key: state[key] for key in expected}, assign=True)
    model = InpaintingModel(generator).eval().requires_grad_(False)
    return model.to(map_location)


def _disagreement(generator: FFCResNetGenerator, state: Mapping[str, Tensor], strict: bool) -> str:
    """The differences between config and file, in one line; empty if there are none."""
    config = generator.config
    blocks = sum(key.endswith(".conv1.ffc.convl2l.weight") for key in state)
    ngf = len(state[STEM]) if state[STEM].ndim else 0
    differences = [
        f"the file has {name} = {found}, the config says {said}"
        for name, found, said in (("n_blocks", blocks, config.n_blocks), ("ngf", ngf, config.ngf))
        if found != said
    ]
    if differences:
        return f"{'; '.join(differences)}: set generator.n_blocks and generator.ngf to the file's"
    expected = generator.state_dict()
    missing = [key for key in expected if key not in state]
    surplus = [key for key in state if key not in expected] if strict else []
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    differences = [
        f"{len(found)} {what}: {first_few(found)}"
        for what, found in (("missing", missing), ("surplus", surplus), ("of wrong shape", shapes))
        if found
    ]
    return f"keys {'; '.join(differences)}: take the file's own config" if differences else ""
