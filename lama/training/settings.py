"""The settings of a training run, read from a config like the published ones, with defaults."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lama.saicinpainting.training.trainers.errors import ConfigError
from lama.training.data.batches import MASK_SHARES, Recipe
from lama.training.data.pictures import Crops

#: Everything that a run reads of a config. `lama/saicinpainting/training/trainers/config.py`
#: checks `generator`.
READ = frozenset(
    {
        "generator", "initialisation.kind", "ema.decay", "normalisation.batch_until",
        "losses.l1.weight_known", "losses.hole_l1.weight", "losses.hole_l1.final",
        "losses.decibels.weight", "losses.decibels.floor", "losses.decibels.final",
        "losses.local_decibels.weight", "losses.local_decibels.floor",
        "losses.ssim.weight", "losses.adversarial.weight", "losses.chroma.weight",
        "losses.feature_matching.weight", "losses.gradient.weight", "losses.perceptual.weight",
        "losses.resnet_pl.weight", "losses.spectrum.weight",
        "data.batch_size", "data.sides", "data.train.out_size", "data.masks", "data.drawn",
        "data.smoothed", "data.upended", "data.transposed", "data.scales", "data.busiest",
        "data.turned", "data.stretched",
        "optimizers.generator.kind", "optimizers.generator.lr", "optimizers.generator.outer",
    }
)  # fmt: skip

#: Terms of published configs, and of earlier versions of this program, that are not implemented.
LEFT_OUT = (
    "adversarial",
    "chroma",
    "feature_matching",
    "gradient",
    "perceptual",
    "resnet_pl",
    "spectrum",
)

#: The pictures that a batch needs for reliable statistics.
_LARGE_BATCH = 16


@dataclass(frozen=True)
class LossWeights:
    """The weights of the loss terms; a weight of 0 leaves a term out."""

    #: `losses.l1.weight_known`: the network's output outside the hole.
    known: float = 10.0
    #: `losses.decibels.weight`: the hole's mean squared error, in bel …
    decibels: float = 0.0
    #: `losses.decibels.floor`, `.final`: … down to this many dB at the start, and at the end.
    floor: float = 35.0
    floor_final: float = 50.0
    #: `losses.local_decibels.weight`: the mean squared error around each pixel of the hole …
    local: float = 0.0
    #: `losses.local_decibels.floor`: … down to this many dB.
    local_floor: float = 42.0
    #: `losses.hole_l1.weight`: the hole at the start of the schedule …
    hole: float = 10.0
    #: `losses.hole_l1.final`: … and at the end; between them it fades in a straight line.
    hole_final: float = 4.0
    #: `losses.ssim.weight`: 1 - SSIM around the hole.
    ssim: float = 0.0


@dataclass(frozen=True)
class Settings:
    """The settings of one training run."""

    recipe: Recipe
    losses: LossWeights = field(default_factory=LossWeights)
    #: `initialisation.kind: wavelet`: see `wavelet.py`; otherwise random.
    wavelet: bool = False
    #: `optimizers.generator.kind: muon`, for the convolutions; otherwise Adam for all.
    muon: bool = False
    #: `optimizers.generator.lr`: the highest learning rate. Large batches allow twice that.
    lr: float = 5e-4
    #: `optimizers.generator.outer`: the share of it for the layers around the residual blocks. If
    #: they begin as a wavelet transform they pass pictures on already, and large steps spoil that.
    outer: float = 1.0
    #: `ema.decay`: the decay per step of the averaged weights.
    ema_decay: float = 0.999
    #: `normalisation.batch_until`: share of the schedule in which batch norms take a batch's own
    #: statistics. Afterwards they use the running ones, as in inference, which no longer change.
    batch_until: float = 1.0
    #: Side of the crops that validation uses, pixels.
    validation_side: int = 256


def read_settings(config: DictConfig, device: torch.device, given: bool = False) -> Settings:
    """Settings from a config; missing ones get a default that fits the device.

    `given` means that training begins with weights that have been trained before.

    A batch of few pictures does not suffice for batch norms: its mean colour is removed from
    everything that the network sees, and it cannot learn to restore it (80 steps of fine-tuning:
    L1 of the known part 0.10 with the batch's statistics, 0.065 with the running ones). Large
    batches suffice.

    Raises ConfigError.
    """
    cuda = device.type == "cuda"
    optimizers = _Section.of(config, "optimizers")
    begins = str(_Section.of(config, "initialisation").get("kind", "random"))
    if begins not in ("random", "wavelet"):
        raise ConfigError(f"initialisation.kind = {begins!r}: 'random' or 'wavelet' is needed")
    losses = _loss_weights(_Section.of(config, "losses"))
    recipe = _recipe(config, device)
    large = recipe.pictures(max(recipe.sides)) >= _LARGE_BATCH
    return Settings(
        recipe=recipe,
        losses=losses,
        wavelet=begins == "wavelet",
        muon=optimizers.get("generator.kind") == "muon",
        lr=_learning_rate(optimizers, 1e-3 if large else Settings.lr),
        outer=optimizers.number("generator.outer", 0.2 if begins == "wavelet" else 1.0),
        ema_decay=_Section.of(config, "ema").number("decay", Settings.ema_decay),
        batch_until=_Section.of(config, "normalisation").number(
            "batch_until", 0.0 if begins == "wavelet" else 1.0 if large else 0.0 if given else 0.1
        ),
        validation_side=512 if cuda else 256,
    )


def override(config: DictConfig, given: Sequence[str]) -> None:
    """Applies settings `name=value`; raises ConfigError for a name that no run reads."""
    for setting in given:
        name, equals, _ = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting}: name=value is needed, such as data.drawn=0.2")
        whole = f"{name}."
        if not any(whole.startswith(f"{read}.") or f"{read}.".startswith(whole) for read in READ):
            close = difflib.get_close_matches(name, READ, 1)
            raise ConfigError(
                f"{setting}: nothing reads {name}; "
                + (f"is {close[0]} meant?" if close else f"there are {', '.join(sorted(READ))}")
            )
    config.merge_with_dotlist(list(given))


def left_out(config: DictConfig) -> list[str]:
    """The terms that have a weight in the config but are not implemented."""
    losses = _Section.of(config, "losses")
    return [name for name in LEFT_OUT if losses.get(f"{name}.weight")]


@dataclass(frozen=True)
class _Section:
    """A section as plain values; unresolved ones (`${env:…}`) stay text."""

    name: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, config: DictConfig, name: str) -> _Section:
        section = config.get(name)
        if section is None:
            return cls(name, {})
        plain = OmegaConf.to_container(section) if isinstance(section, DictConfig) else None
        if not isinstance(plain, dict):
            raise ConfigError(f"{name} = {section!r}: a mapping is needed")
        return cls(name, {str(key): value for key, value in plain.items()})

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a path such as `l1.weight_known`, or `default` if there is none."""
        found: Any = self.values
        name = self.name
        for key in path.split("."):
            if not isinstance(found, Mapping):
                raise ConfigError(f"{name} = {found!r}: a mapping is needed")
            found, name = found.get(key), f"{name}.{key}"
            if found is None:
                return default
        return found

    def number(self, path: str, default: float) -> float:
        value = self.get(path, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{self.name}.{path} = {value!r}: a number is needed")
        return float(value)

    def whole(self, path: str, default: int) -> int:
        value = self.get(path, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigError(f"{self.name}.{path} = {value!r}: a whole number is needed")
        return value


def _loss_weights(losses: _Section) -> LossWeights:
    return LossWeights(
        known=losses.number("l1.weight_known", LossWeights.known),
        hole=losses.number("hole_l1.weight", LossWeights.hole),
        hole_final=losses.number(
            "hole_l1.final", min(LossWeights.hole_final, losses.number("hole_l1.weight", math.inf))
        ),
        decibels=losses.number("decibels.weight", LossWeights.decibels),
        floor=losses.number("decibels.floor", LossWeights.floor),
        floor_final=losses.number("decibels.final", LossWeights.floor_final),
        local=losses.number("local_decibels.weight", LossWeights.local),
        local_floor=losses.number("local_decibels.floor", LossWeights.local_floor),
        ssim=losses.number("ssim.weight", LossWeights.ssim),
    )


def _recipe(config: DictConfig, device: torch.device) -> Recipe:
    data = _Section.of(config, "data")
    sides = data.get("train.out_size") or data.get("sides")
    sides = sides or ([256, 256, 256, 384] if device.type == "cuda" else [96, 128, 160, 256])
    sides = [sides] if isinstance(sides, int) else list(sides)
    if any(not isinstance(side, int) or side < 32 or side % 8 for side in sides):
        raise ConfigError(f"data.sides = {sides}: multiples of 8, at least 32, are needed")
    shares = dict(data.get("masks") or MASK_SHARES)
    if set(shares) - set(MASK_SHARES) or sum(shares.values()) <= 0:
        raise ConfigError(f"data.masks = {shares}: shares of {', '.join(MASK_SHARES)} are needed")
    return Recipe(
        batch=data.whole("batch_size", 0) or _fitting_batch(config, device, min(sides)),
        sides=tuple(sides),
        drawn=data.number("drawn", Recipe.drawn),
        masks=tuple(shares.items()),
        smoothed=data.number("smoothed", Recipe.smoothed),
        upended=data.number("upended", Recipe.upended),
        transposed=data.number("transposed", Recipe.transposed),
        crops=_crops(data),
    )


def _crops(data: _Section) -> Crops:
    scales = data.get("scales", Crops.scales)
    try:
        least, most = map(float, scales)
    except (TypeError, ValueError):
        least, most = 0.0, 0.0
    if not 0.1 <= least <= most <= 10:
        raise ConfigError(
            f"data.scales = {scales}: two numbers of 0.1 to 10 are needed, such as [0.8, 3]"
        )
    stretched = data.number("stretched", Crops.stretched)
    if not 1 <= stretched <= 4:
        raise ConfigError(f"data.stretched = {stretched:g}: a number of 1 to 4 is needed")
    return Crops(
        scales=(least, most),
        busiest=data.number("busiest", Crops.busiest),
        turned=data.number("turned", Crops.turned),
        stretched=stretched,
    )


def _learning_rate(optimizers: _Section, default: float) -> float:
    kind = optimizers.get("generator.kind", "adam")
    if kind not in ("adam", "muon"):
        raise ConfigError(f"optimizers.generator.kind = {kind!r}: adam or muon is needed")
    return optimizers.number("generator.lr", default)


def _fitting_batch(config: DictConfig, device: torch.device, side: int) -> int:
    """The number of pictures of a batch: as free memory allows on CUDA, 16 on a CPU."""
    if device.type != "cuda":
        return 16
    free, _ = torch.cuda.mem_get_info(device)
    generator = _Section.of(config, "generator")
    blocks, ngf = generator.whole("n_blocks", 9), generator.whole("ngf", 64)
    # Bytes kept for the backward pass, counted with saved-tensor hooks under bfloat16: per pixel
    # 42 for each channel of the stem and 10 more for each block. 1,400 more were measured with a
    # discriminator, and stay as a reserve. Half as much again for temporary memory.
    each = 1.5 * side * side * (ngf * (42 + 10 * blocks) + 1400)
    return int(max(2, min(64, 0.9 * (free - (2 << 30)) / each)))
