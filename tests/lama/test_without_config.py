"""The layout of a network is read off its weights, and a config only has to agree with them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from lama.bin.inference import batch_inference, load_lama_model
from lama.saicinpainting.training.modules.ffc import GeneratorConfig
from lama.saicinpainting.training.trainers import (
    CheckpointError,
    ConfigError,
    MismatchError,
    load_checkpoint,
)
from lama.saicinpainting.training.trainers.config import generator_config
from lama.saicinpainting.training.trainers.layout import as_train_config, layout_of
from tests.lama import tiny

LAYOUTS = [
    {},
    {"n_blocks": 1},
    {"n_blocks": 18, "ngf": 4},
    {"n_downsampling": 1},
    {"n_downsampling": 2, "ngf": 12},
    {"n_downsampling": 4, "ngf": 4},
    {"ratio": 0.5},
    {"ratio": 0.7},
    {"ratio": 0.29},
    {"ratio": 0.9, "ngf": 7},
    {"max_features": 24},
    {"max_features": 8},
    {"ngf": 3, "ratio": 1 / 3},
]


def save(path, state):
    torch.save({"gen_state_dict": state}, path)
    return path


@pytest.mark.parametrize("changes", LAYOUTS, ids=str)
def test_the_layout_is_read_off_names_and_shapes(tmp_path, changes):
    generator = tiny.tiny_generator(**changes)
    state = dict(generator.state_dict())
    found = layout_of(state)
    for name, value in changes.items():
        if name != "ratio":
            assert getattr(found, name) == value
    path = save(tmp_path / "best.ckpt", state)
    # The ratio may be another that gives the same channels.
    model = load_checkpoint(None, path)
    image = torch.rand(1, 4, 64, 64)
    assert torch.equal(model.generator(image), generator(image))
    with_config = load_checkpoint(as_train_config(generator.config), path)
    assert with_config.generator.config == generator.config
    assert generator_config(as_train_config(found)) == found


@pytest.mark.parametrize("name", ["blocks2-ngf16", "blocks9-ngf8"])
@pytest.mark.parametrize("given", [None, "", "missing", "folder"])
def test_golden_weights_fill_the_same_without_a_config(
    tmp_path, golden_models, caplog, name, given
):
    config = {None: None, "": "", "missing": tmp_path / "config.yaml", "folder": tmp_path}[given]
    with caplog.at_level(logging.WARNING):
        model, train_config = load_lama_model(
            config, tiny.GOLDEN / name / "models" / "best.ckpt", "cpu"
        )
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == (given in ("missing", "folder"))
    assert all(f"no config file {config}" in text for text in warned)
    assert model.generator.config == golden_models[name].generator.config
    assert generator_config(train_config) == model.generator.config
    sample = tiny.golden_sample(name, 0)
    batch = tiny.as_batch((sample["image"], sample["mask"]))
    inpainted = tiny.as_picture(model(batch)["inpainted"][0])
    assert np.abs(inpainted - sample["inpainted"]).max() <= 1e-5
    picture, mask = tiny.picture(40, 48), tiny.box_mask(40, 48)
    (filled,) = batch_inference([picture], [mask], model, train_config, "cpu", False)
    (same,) = batch_inference([picture], [mask], golden_models[name], {}, "cpu", False)
    assert np.array_equal(filled, same)


@pytest.mark.parametrize("name", ["blocks2-ngf16", "blocks9-ngf8"])
def test_the_layout_of_the_golden_weights_is_their_configs(golden_models, name):
    said = golden_models[name].generator.config
    assert layout_of(golden_models[name].generator.state_dict()) == said


@pytest.mark.parametrize("blocks", [9, 18])
def test_the_layouts_of_the_published_networks_are_found(blocks):
    with torch.device("meta"):
        state = tiny.tiny_generator(ngf=64, n_blocks=blocks).state_dict()
    assert layout_of(state) == GeneratorConfig(n_blocks=blocks)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_blocks": 3}, "the file has n_blocks = 2, the config says 3"),
        ({"ngf": 16}, "the file has ngf = 8, the config says 16"),
        ({"n_downsampling": 2}, "the file has n_downsampling = 3, the config says 2"),
        (
            {"resnet_conv_kwargs": {"ratio_gin": 0.5, "ratio_gout": 0.5}},
            "the file has ratio = 0.75, the config says 0.5",
        ),
        ({"max_features": 32}, "of wrong shape"),
    ],
)
def test_a_config_that_disagrees_is_an_error_that_says_what_differs(tmp_path, changes, said):
    path = save(tmp_path / "best.ckpt", tiny.tiny_state())
    config = tiny.write_config(tmp_path / "config.yaml", **changes)
    if "max_features" in changes:
        path = save(path, tiny.tiny_state(ngf=16))
        config = tiny.write_config(config, ngf=16, **changes)
    with pytest.raises(MismatchError) as caught:
        load_lama_model(config, path, "cpu")
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_that_cannot_be_read_is_an_error_though_none_is_needed(tmp_path):
    path = save(tmp_path / "best.ckpt", tiny.tiny_state())
    (tmp_path / "config.yaml").write_text("generator: [")
    with pytest.raises(ConfigError, match="no valid YAML"):
        load_lama_model(tmp_path / "config.yaml", path, "cpu")


def without(state, ending):
    return {key: tensor for key, tensor in state.items() if not key.endswith(ending)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: without(s, "convl2g.weight"), "0 global channels"),
        (lambda s: {k: v for k, v in s.items() if ".conv1.ffc" not in k}, "n_blocks = 0"),
        (lambda s: {k: v for k, v in s.items() if k[:8] != "model.2."}, "n_downsampling = 0"),
        (lambda s: {**s, "model.1.ffc.convl2l.weight": torch.tensor(1.0)}, "ngf = 0"),
        (lambda s: {**s, "model.1.ffc.convl2l.weight": torch.zeros(2000, 4)}, "ngf = 2000"),
        (lambda s: {**s, "model.1.ffc.convl2l.weight": torch.zeros(8, 3, 7, 7)}, "takes 3 "),
        (lambda s: {**s, "model.18.weight": torch.zeros(4, 8, 7, 7)}, "gives 4"),
        (lambda s: {**s, "model.4.ffc.convl2g.weight": torch.zeros(1 << 40, 0)}, "global channels"),
        (lambda s: without(s, "model.18.bias"), "1 missing: model.18.bias: the file is incomplete"),
        (lambda s: {**s, "model.5.bias": torch.zeros(1)}, "1 surplus: model.5.bias"),
    ],
)  # fmt: skip
def test_weights_of_another_network_are_refused_without_a_config(tmp_path, change, said):
    path = save(tmp_path / "best.ckpt", change(tiny.tiny_state()))
    with pytest.raises(MismatchError) as caught:
        load_checkpoint(None, path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_is_an_error_with_or_without_a_config(tmp_path):
    with pytest.raises(CheckpointError, match="no such file; the weights"):
        load_lama_model(None, tmp_path / "best.ckpt", "cpu")
