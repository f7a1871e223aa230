"""The generator's optimizer: Adam, or Muon for the convolutions and Adam for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lama.saicinpainting.training.modules.ffc import FFCResnetBlock, FFCResNetGenerator


class GeneratorOptimizer:
    """Adam, or Muon and Adam, behind the interface of one optimizer.

    Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024) makes a
    convolution's step orthogonal, so that all directions move equally, the rare ones too. Its steps
    are scaled to those of Adam, so that both have the same learning rate. `outer` scales the
    learning rate of the layers around the residual blocks.
    """

    def __init__(self, generator: FFCResNetGenerator, muon: bool, outer: float = 1.0) -> None:
        blocks = {
            parameter
            for module in generator.modules()
            if isinstance(module, FFCResnetBlock)
            for parameter in module.parameters()
        }
        parameters = list(generator.parameters())
        inner = [parameter for parameter in parameters if parameter in blocks]
        around = [parameter for parameter in parameters if parameter not in blocks]
        self._convolutions: list[nn.Parameter] = []
        self._matrices: list[nn.Parameter] = []
        for_adam, for_muon = [], []
        for group, scale in ((inner, 1.0), (around, outer)):
            convolutions = [p for p in group if muon and p.ndim == 4]
            # Muon takes matrices. These share the memory of the convolutions: one row per output.
            matrices = [nn.Parameter(_as_matrix(p.detach())) for p in convolutions]
            shared = zip(matrices, convolutions, strict=True)
            assert all(matrix.data_ptr() == other.data_ptr() for matrix, other in shared)
            self._convolutions += convolutions
            self._matrices += matrices
            rest = [p for p in group if not (muon and p.ndim == 4)]
            for_adam.append({"params": rest, "scale": scale})
            for_muon.append({"params": matrices, "scale": scale})
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(for_adam, betas=(0.9, 0.99 if muon else 0.999))
        ]
        if muon:
            self._optimizers.append(
                torch.optim.Muon(for_muon, weight_decay=0, adjust_lr_fn="match_rms_adamw")
            )

    def zero_grad(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        for convolution in self._convolutions:
            convolution.grad = None

    def step(self, lr: float) -> None:
        for matrix, convolution in zip(self._matrices, self._convolutions, strict=True):
            assert convolution.grad is not None
            matrix.grad = _as_matrix(convolution.grad)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["scale"]
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _as_matrix(weight: Tensor) -> Tensor:
    """A convolution's weight as rows of h·w·C numbers: a view if the weight is channels-last."""
    # O, C, h, w -> O, h, w, C -> O, h·w·C
    return weight.permute(0, 2, 3, 1).flatten(1)
