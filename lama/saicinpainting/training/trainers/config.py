"""Reads the training config, of which only the section `generator` matters for inference."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...paths import not_a_file
from ..modules.ffc import GeneratorConfig
from .errors import ConfigError, one_line

#: The most bytes of a training config, which has a few thousand.
_LARGEST_CONFIG = 1 << 20

#: Settings with only one supported value, which is also the default.
_ONLY: dict[str, Any] = {
    "kind": "ffc_resnet",
    "add_out_act": "sigmoid",
    "padding_type": "reflect",
    "input_nc": 4,
    "output_nc": 3,
}

#: Whole numbers: their default and range.
_WHOLE = {
    "ngf": (64, 1, 1024),
    "n_downsampling": (3, 1, 6),
    "n_blocks": (9, 1, 100),
    "max_features": (1024, 1, 65536),
}

#: The keyword arguments of a group of convolutions, and the ratios that it may have.
_CONVOLUTIONS = ("init_conv_kwargs", "downsample_conv_kwargs", "resnet_conv_kwargs")


def load_train_config(path: str | os.PathLike[str]) -> DictConfig:
    """Reads `config.yaml`. Only `generator` is resolved, and checked; the rest stays as it is.

    Raises ConfigError, one line, if the file can't be read or asks for another network.
    """
    path = Path(path)
    try:
        if what := not_a_file(path):
            raise ConfigError(f"{path}: {what}; name the training config (config.yaml)")
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ConfigError(f"{path}: {path.stat().st_size} bytes are no training config")
        loaded = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {one_line(error)}") from error
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{path}: no valid YAML: {one_line(error)}") from error
    try:
        if not isinstance(loaded, DictConfig):
            raise ConfigError("the top level is not a mapping; is this the training config?")
        loaded.generator = _resolved_generator(loaded)
        generator_config(loaded)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return loaded


def generator_config(train_config: DictConfig | Mapping[str, Any]) -> GeneratorConfig:
    """The generator that a training config describes.

    Raises ConfigError, which names setting and value.
    """
    if not isinstance(train_config, DictConfig):
        train_config = OmegaConf.create(dict(train_config))
    settings = _resolved_generator(train_config)
    for name, value in settings.items():
        if name in _ONLY and (value != _ONLY[name] or isinstance(value, bool)):
            raise ConfigError(f"generator.{name} = {value!r}: only {_ONLY[name]!r} is supported")
        if name not in _ONLY and name not in _WHOLE and name not in _CONVOLUTIONS and value:
            raise ConfigError(f"generator.{name} = {value!r} is not supported: remove it")
    whole = {name: _whole_number(settings, name) for name in _WHOLE}
    for group in ("init_conv_kwargs", "downsample_conv_kwargs"):
        ratios = _ratios(settings, group)
        if any(ratios.values()):
            raise ConfigError(
                f"generator.{group} = {ratios}: only ratios of 0 are supported outside the "
                "residual blocks"
            )
    ratios = _ratios(settings, "resnet_conv_kwargs")
    ratio = ratios["ratio_gin"]
    if ratio != ratios["ratio_gout"] or not 0 < ratio < 1:
        raise ConfigError(
            f"generator.resnet_conv_kwargs = {ratios}: the two ratios must be equal, above 0 and "
            "below 1 (published networks have 0.75)"
        )
    config = GeneratorConfig(ratio=ratio, **whole)
    channels = config.width(config.n_downsampling)
    if not 2 <= int(channels * ratio) < channels:
        raise ConfigError(
            f"generator.ngf = {config.ngf} gives {channels} channels in the residual blocks, too "
            f"few to split at ratio {ratio}"
        )
    return config


def _resolved_generator(train_config: DictConfig) -> dict[str, Any]:
    """The `generator` section with its interpolations resolved; no others are."""
    try:
        section = train_config.get("generator")
        if not isinstance(section, DictConfig):
            raise ConfigError(
                f"generator is {'missing' if section is None else repr(section)}; a section with "
                "kind, ngf, n_blocks is needed"
            )
        resolved = OmegaConf.to_container(section, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"generator can't be resolved: {one_line(error)}") from error
    assert isinstance(resolved, dict)
    return {str(name): value for name, value in resolved.items()}


def _whole_number(settings: Mapping[str, Any], name: str) -> int:
    default, lowest, highest = _WHOLE[name]
    value = settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise ConfigError(
            f"generator.{name} = {value!r}: a whole number from {lowest} to {highest} is needed"
        )
    return value


def _ratios(settings: Mapping[str, Any], group: str) -> dict[str, float]:
    """`ratio_gin` and `ratio_gout` of a group; anything else that is switched on is an error."""
    given = settings.get(group) or {}
    if not isinstance(given, dict):
        raise ConfigError(f"generator.{group} = {given!r}: a mapping is needed")
    for name, value in given.items():
        if name not in ("ratio_gin", "ratio_gout") and value:
            raise ConfigError(f"generator.{group}.{name} = {value!r} is not supported: remove it")
    ratios: dict[str, float] = {}
    for name in ("ratio_gin", "ratio_gout"):
        value = given.get(name, 0)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
            raise ConfigError(f"generator.{group}.{name} = {value!r}: a share, 0 to 1, is needed")
        ratios[name] = value
    return ratios
