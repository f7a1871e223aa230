"""Reads a generator's layout off its weights, and compares it with a config's.

The names of the weights tell the numbers of downsamplings and blocks, and their shapes the widths
and the ratio, so that a config is not needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..modules.ffc import FFCResNetGenerator, GeneratorConfig
from .errors import MismatchError

#: The first weight of every generator.
STEM = "model.1.ffc.convl2l.weight"

#: The most of each number in a file; published networks have at most 64, 3 and 18.
_MOST = {"ngf": 1024, "n_downsampling": 6, "n_blocks": 100}

#: The most channels in the blocks; published networks have 512.
_MOST_CHANNELS = 65536


def layout_of(state: Mapping[str, Tensor]) -> GeneratorConfig:
    """The layout that the weights have, as far as names and shapes tell it.

    Raises MismatchError, one line, where no such generator can be made.
    """
    out_channels, in_channels, *_ = (*state[STEM].shape, 0, 0)
    downsampled = _count(state, 2, "ffc.convl2l.weight")
    blocks = _count(state, 2 + downsampled, "conv1.ffc.convl2l.weight")
    for name, found in (
        ("ngf", out_channels),
        ("n_downsampling", downsampled),
        ("n_blocks", blocks),
    ):
        if not 1 <= found <= _MOST[name]:
            raise MismatchError(
                f"the file has {name} = {found}: no generator of LaMa; 1 to {_MOST[name]} is "
                "supported"
            )
    last = f"model.{1 + downsampled}.ffc."
    local, spectral = _rows(state, f"{last}convl2l.weight"), _rows(state, f"{last}convl2g.weight")
    if not local or spectral < 2 or local + spectral > _MOST_CHANNELS:
        raise MismatchError(
            f"the file has {local} local and {spectral} global channels in its blocks: LaMa has "
            "both; networks without Fourier convolutions are not supported"
        )
    output = _rows(state, f"model.{blocks + 4 * downsampled + 4}.weight")
    if (in_channels, output) not in ((4, 3), (4, 0)):
        raise MismatchError(
            f"the file's network takes {in_channels} channels and gives {output}: only 4 (red, "
            "green, blue, mask) to 3 is supported"
        )
    channels = local + spectral
    # Only where the widths stop doubling is there a limit to see.
    is_limited = channels != out_channels << downsampled
    return GeneratorConfig(
        ngf=out_channels,
        n_downsampling=downsampled,
        n_blocks=blocks,
        ratio=_ratio(spectral, channels),
        max_features=channels if is_limited else max(1024, channels),
    )


def as_train_config(config: GeneratorConfig) -> dict[str, Any]:
    """The section that a training config has for such a generator."""
    none = {"ratio_gin": 0, "ratio_gout": 0, "enable_lfu": False}
    ratios = {"ratio_gin": config.ratio, "ratio_gout": config.ratio, "enable_lfu": False}
    return {
        "generator": {
            "kind": "ffc_resnet",
            "input_nc": config.input_nc,
            "output_nc": config.output_nc,
            "ngf": config.ngf,
            "n_downsampling": config.n_downsampling,
            "n_blocks": config.n_blocks,
            "max_features": config.max_features,
            "add_out_act": "sigmoid",
            "init_conv_kwargs": none,
            "downsample_conv_kwargs": none,
            "resnet_conv_kwargs": ratios,
        }
    }


def differences(found: GeneratorConfig, said: GeneratorConfig) -> str:
    """What the file has and a config says otherwise, in one line; empty if they agree."""
    settings = [
        (name, getattr(found, name), getattr(said, name))
        for name in ("n_blocks", "ngf", "n_downsampling")
    ]
    channels = found.width(found.n_downsampling)
    if int(channels * said.ratio) != int(channels * found.ratio):
        settings.append(("ratio", found.ratio, said.ratio))
    different = [setting for setting in settings if setting[1] != setting[2]]
    if not different:
        return ""
    text = "; ".join(
        f"the file has {name} = {here}, the config says {there}" for name, here, there in different
    )
    names = " and ".join(_SETTINGS.get(name, f"generator.{name}") for name, _, _ in different)
    return f"{text}: set {names} to the file's, or go without a config"


_SETTINGS = {"ratio": "both ratios in generator.resnet_conv_kwargs"}


def disagreement(generator: FFCResNetGenerator, state: Mapping[str, Tensor], strict: bool) -> str:
    """How the file's keys and shapes differ from the network's, in one line; empty if not."""
    expected = generator.state_dict()
    missing = [key for key in expected if key not in state]
    surplus = [key for key in state if key not in expected] if strict else []
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    found = [
        f"{len(names)} {what}: {first_few(names)}"
        for what, names in (("missing", missing), ("surplus", surplus), ("of wrong shape", shapes))
        if names
    ]
    return f"keys {'; '.join(found)}" if found else ""


def first_few(names: Iterable[object]) -> str:
    """`a, b, c, … (7 in all)`: names or numbers for a message of one line."""
    listed = [str(name)[:80] or "''" for name in names]
    text = ", ".join(listed[:3]) or "none"
    return text if len(listed) <= 3 else f"{text}, … ({len(listed)} in all)"


def _count(state: Mapping[str, Tensor], first: int, name: str) -> int:
    """How many layers in a row, from the first one on, have such a weight."""
    count = 0
    while f"model.{first + count}.{name}" in state:
        count += 1
    return count


def _rows(state: Mapping[str, Tensor], key: str) -> int:
    """The output channels of a convolution; 0 if there is none."""
    return state[key].shape[0] if key in state and state[key].ndim else 0


def _ratio(spectral: int, channels: int) -> float:
    """The share that gives as many global channels, rounded down as the network does."""
    ratio = spectral / channels
    return ratio if int(channels * ratio) == spectral else (spectral + 0.5) / channels
