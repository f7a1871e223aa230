"""The settings of a training run: what its config may say, and what is refused."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from lama.saicinpainting.training.trainers.errors import ConfigError
from lama.training.settings import READ, LossWeights, _Section, left_out, read_settings
from tests.lama import tiny

CPU = torch.device("cpu")


def test_what_may_be_given_is_what_a_run_reads(monkeypatch):
    read, get = set(), _Section.get

    def noted(section, path, default=None):
        read.add(f"{section.name}.{path}")
        return get(section, path, default)

    monkeypatch.setattr(_Section, "get", noted)
    config = OmegaConf.create(tiny.tiny_config())
    read_settings(config, CPU)
    left_out(config)
    assert read == READ - {"generator"}


def test_a_published_config_is_read_and_the_terms_that_are_left_out_are_named():
    config = OmegaConf.create(
        {
            **tiny.tiny_config(),
            "losses": {
                "l1": {"weight_missing": 0, "weight_known": 10},
                "adversarial": {"kind": "r1", "weight": 10, "gp_coef": 0.001},
                "feature_matching": {"weight": 100},
                "resnet_pl": {"weight": 30, "weights_path": "${env:TORCH_HOME}"},
            },
            "optimizers": {"generator": {"kind": "adam", "lr": 0.001}},
            "discriminator": {"kind": "pix2pixhd_nlayer", "ndf": 64, "n_layers": 4},
        }
    )
    settings = read_settings(config, CPU)
    assert settings.losses == LossWeights()
    assert settings.lr == 0.001
    assert left_out(config) == ["adversarial", "feature_matching", "resnet_pl"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.sides=[30]", "multiples of 8"),
        ("data.masks={circles: 1}", "shares of"),
        ("data.scales=[2, 1]", "two numbers of 0.1 to 10"),
        ("data.scales=1", "two numbers of 0.1 to 10"),
        ("data.stretched=0.5", "a number of 1 to 4"),
        ("optimizers.generator.kind=sgd", "adam or muon is needed"),
        ("initialisation.kind=zero", "'random' or 'wavelet'"),
        ("optimizers.generator.lr=fast", "a number is needed"),
        ("losses=3", "a mapping is needed"),
    ],
)
def test_settings_that_cannot_be_met_are_named(override, message):
    config = OmegaConf.create(tiny.tiny_config())
    config.merge_with_dotlist([override])
    with pytest.raises(ConfigError, match=message):
        read_settings(config, CPU)
