"""`Trainer`: the state of a training run, and one training step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lama.engine.precision import decide
from lama.saicinpainting.training.modules.ffc import FFCResNetGenerator, FourierUnit
from lama.saicinpainting.training.trainers.checkpoints import read_generator_state
from lama.saicinpainting.training.trainers.config import generator_config
from lama.saicinpainting.training.trainers.errors import MismatchError
from lama.training import reconstruction
from lama.training.optimizer import GeneratorOptimizer
from lama.training.settings import Settings
from lama.training.snapshots import PREFIX, container
from lama.training.wavelet import begin_as_wavelet

#: Steps over which the learning rate rises from 0.
_WARM_UP = 100

#: Steps in a row without a finite loss after which a run is given up.
PATIENCE = 20


def learning_rate(progress: float, step: int) -> float:
    """The share of the highest rate: it rises, stays, then falls as half a cosine to 1 %."""
    down = max(0.0, (min(1.0, progress) - 0.3) / 0.7)
    return min(1.0, (step + 1) / _WARM_UP) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * down)))


def training_dtype(device: torch.device, half: bool) -> torch.dtype:
    """bfloat16 if the device supports it, and on a CPU if it is faster; else float32."""
    if not half:
        return torch.float32
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if able else torch.float32
    return decide(device, True).dtype


class Trainer:
    """The generator, its moving average and its optimizer."""

    def __init__(
        self,
        config: DictConfig,
        settings: Settings,
        device: torch.device,
        seed: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        torch.manual_seed(seed)
        self.settings = settings
        self.device = device
        self.seed = seed
        self.dtype = dtype
        #: The steps so far and the seconds spent on them, over all interruptions of the run.
        self.step, self.elapsed_s = 0, 0.0
        #: The best validation so far, dB.
        self.best = -math.inf
        self._broken = 0
        self._given = False
        generator = FFCResNetGenerator(generator_config(config))
        self.generator = generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        #: The moving average, which best.ckpt holds.
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        keep_fourier_exact(self.generator, device)
        self._optimizer = GeneratorOptimizer(self.generator, settings.muon, settings.outer)

    def begin(self, images: Tensor, masks: Tensor) -> None:
        """Sets a new run's weights to a wavelet transform if that is chosen; a batch calibrates it.

        Weights from `start_from` stay.
        """
        if self.settings.wavelet and not self._given:
            begin_as_wavelet(self.generator, images, masks)
            self.average.load_state_dict(self.generator.state_dict())

    def start_from(self, path: str) -> None:
        """Loads the generator's weights from any container that the loader reads."""
        state = read_generator_state(path)
        expected = self.generator.state_dict()
        wrong = [
            key
            for key, tensor in expected.items()
            if key not in state or state[key].shape != tensor.shape
        ]
        if wrong:
            raise MismatchError(
                f"{path}: {len(wrong)} tensors are missing or of another shape than the config's "
                f"generator has, first {wrong[0]}: take the file's own config"
            )
        self.generator.load_state_dict({key: state[key] for key in expected})
        self._given = True
        self.average.load_state_dict(self.generator.state_dict())

    def train_step(self, images: Tensor, masks: Tensor, progress: float) -> dict[str, Tensor]:
        """Updates all weights once; returns the terms of the loss, unweighted, as 0-d tensors.

        `images` B×3×H×W in [0, 1], `masks` B×1×H×W, on the device; `progress` 0 to 1 through the
        schedule. A step with a loss that is not finite changes nothing.
        """
        rate = learning_rate(progress, self.step)
        self._set_modes(progress)
        masked = torch.cat([images * (1 - masks), masks], dim=1)
        masked = masked.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            predicted = self.generator(masked)
        predicted = predicted.float()
        filled = masks * predicted + (1 - masks) * images
        terms = self._reconstruction(predicted, filled, images, masks, progress)
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        losses = {name: value.detach() for name, (_, value) in terms.items()}
        if not torch.isfinite(total):
            self._skip()
        else:
            self._broken = 0
            self._optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.generator.parameters(), 1.0)
            self._optimizer.step(self.settings.lr * rate)
            self._update_average()
        self.step += 1
        return losses

    def _set_modes(self, progress: float) -> None:
        """Sets batch norms to the batch's statistics or to the running ones; see `batch_until`."""
        self.generator.train()
        if progress >= self.settings.batch_until:
            for module in self.generator.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, self.dtype == torch.bfloat16)

    def _reconstruction(
        self, predicted: Tensor, filled: Tensor, images: Tensor, masks: Tensor, progress: float
    ) -> dict[str, tuple[float, Tensor]]:
        """The weight and the value of each term that has a weight."""
        weights = self.settings.losses
        share = min(1.0, progress)
        hole = weights.hole + (weights.hole_final - weights.hole) * share
        floor = weights.floor + (weights.floor_final - weights.floor) * share
        decibels = partial(reconstruction.decibels, floor=floor)
        local = partial(reconstruction.local_decibels, floor=weights.local_floor)
        table: list[tuple[str, float, Callable[[Tensor, Tensor, Tensor], Tensor], Tensor]] = [
            ("known", weights.known, reconstruction.known_l1, predicted),
            ("hole", hole, reconstruction.hole_l1, filled),
            ("bel", weights.decibels, decibels, filled),
            ("local", weights.local, local, filled),
            ("dssim", weights.ssim, reconstruction.dissimilarity, filled),
        ]
        return {
            name: (weight, term(picture, images, masks))
            for name, weight, term, picture in table
            if weight
        }

    @torch.no_grad()
    def _update_average(self) -> None:
        """Updates the average; faster at first, while it mostly consists of the initial weights."""
        decay = min(self.settings.ema_decay, (self.step + 1) / (self.step + 10))
        # Running statistics too: those of small batches are noisy.
        pairs = list(
            zip(
                self.average.state_dict().values(),
                self.generator.state_dict().values(),
                strict=True,
            )
        )
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        averaged, current = [pair[0] for pair in floating], [pair[1] for pair in floating]
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for average, tensor in pairs:
            if not tensor.is_floating_point():
                average.copy_(tensor)

    def _skip(self) -> None:
        self._broken += 1
        if self._broken >= PATIENCE:
            raise FloatingPointError(
                f"step {self.step}: the loss isn't finite, {PATIENCE} times in a row; lower "
                "optimizers.generator.lr and go on from the last checkpoint"
            )

    def snapshot(self) -> dict[str, Any]:
        """The content of last.ckpt: the published container, and everything that resuming needs."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return container(
            self.generator.state_dict(),
            self.step,
            ema=_on_host(self.average.state_dict()),
            optimizer_states=[self._optimizer.state_dict()],
            training={
                "seed": self.seed,
                "step": self.step,
                "elapsed_s": self.elapsed_s,
                "best": self.best,
                "rng": rng,
                "batch_until": self.settings.batch_until,
            },
        )

    def best_snapshot(self) -> dict[str, Any]:
        """The content of best.ckpt: the averaged generator, convolutions in half precision."""
        return container(self.average.state_dict(), self.step, half=True)

    def resume(self, content: Mapping[str, Any]) -> None:
        """Restores the state of `snapshot`."""
        self.generator.load_state_dict(
            {
                key.removeprefix(PREFIX): tensor
                for key, tensor in content["state_dict"].items()
                if key.startswith(PREFIX)
            }
        )
        self.average.load_state_dict(content["ema"])
        # Checkpoints of earlier versions also have the state of a discriminator's optimizer.
        self._optimizer.load_state_dict(content["optimizer_states"][0])
        training = content["training"]
        self.seed, self.step = int(training["seed"]), int(training["step"])
        self.elapsed_s, self.best = float(training["elapsed_s"]), float(training["best"])
        # Its default depends on how the run was started, which is not repeated when it resumes.
        until = training.get("batch_until", self.settings.batch_until)
        self.settings = replace(self.settings, batch_until=float(until))
        torch.set_rng_state(training["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in training["rng"]:
            torch.cuda.set_rng_state(training["rng"]["cuda"], self.device)


def _on_host(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu() for key, tensor in state.items()}


def keep_fourier_exact(generator: nn.Module, device: torch.device) -> None:
    """Excludes the Fourier units from autocast: spectra in bfloat16 lose the low amplitudes.

    The batch norms outside them are included: autocast leaves their parameters and running
    statistics float32, and they accumulate in float32 over bfloat16 inputs.
    """
    for module in generator.modules():
        if isinstance(module, FourierUnit):
            module.forward = _without_autocast(module.forward, device.type)  # type: ignore


def _without_autocast(forward: Callable[[Tensor], Tensor], kind: str) -> Callable[[Tensor], Tensor]:
    def exact(x: Tensor) -> Tensor:
        with torch.autocast(kind, enabled=False):
            return forward(x)

    return exact
