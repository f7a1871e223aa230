"""config.yaml: only `generator` matters, and it says what it wants or why it can't have it."""

from __future__ import annotations

import pytest
import yaml
from omegaconf import DictConfig

from lama.saicinpainting.training.modules.ffc import GeneratorConfig
from lama.saicinpainting.training.trainers import ConfigError, load_train_config
from lama.saicinpainting.training.trainers.config import generator_config
from tests.lama import tiny


def refusal(path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_train_config(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


def test_the_golden_config_is_read_and_its_generator_resolved():
    config = load_train_config(tiny.GOLDEN / "blocks9-ngf8" / "config.yaml")
    assert isinstance(config, DictConfig)
    assert config.generator.resnet_conv_kwargs.ratio_gout == 0.75
    assert config.generator.downsample_conv_kwargs.ratio_gout == 0
    assert generator_config(config) == GeneratorConfig(ngf=8, n_blocks=9)


def test_a_resolver_that_does_not_exist_is_left_alone_outside_the_generator(monkeypatch):
    monkeypatch.delenv("TORCH_HOME", raising=False)
    config = load_train_config(tiny.GOLDEN / "blocks2-ngf16" / "config.yaml")
    section = config.losses.resnet_pl
    assert section._get_node("weights_path")._value() == "${env:TORCH_HOME}"


def test_relative_interpolations_inside_the_generator_are_resolved(tmp_path):
    config = tiny.tiny_config()
    generator = config["generator"]
    generator["downsample_conv_kwargs"]["ratio_gin"] = "${..init_conv_kwargs.ratio_gout}"
    generator["resnet_conv_kwargs"]["ratio_gout"] = "${.ratio_gin}"
    generator["ngf"] = "${width}"
    config["width"] = 24
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    loaded = load_train_config(tmp_path / "config.yaml")
    assert generator_config(loaded) == GeneratorConfig(ngf=24, n_blocks=2)
    assert loaded.generator.resnet_conv_kwargs.ratio_gout == 0.75


def test_a_plain_mapping_serves_as_well():
    assert generator_config(tiny.tiny_config(ngf=12)) == GeneratorConfig(ngf=12, n_blocks=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "pix2pixhd_global"}, "generator.kind = 'pix2pixhd_global'"),
        ({"add_out_act": "tanh"}, "generator.add_out_act = 'tanh'"),
        ({"add_out_act": True}, "generator.add_out_act = True"),
        ({"add_out_act": False}, "generator.add_out_act = False"),
        ({"input_nc": 3}, "generator.input_nc = 3"),
        ({"padding_type": "zeros"}, "generator.padding_type = 'zeros'"),
        ({"spatial_transform_layers": [1]}, "generator.spatial_transform_layers = [1]"),
        ({"out_ffc": True}, "generator.out_ffc = True"),
        ({"ngf": 0}, "generator.ngf = 0"),
        ({"ngf": "64"}, "generator.ngf = '64'"),
        ({"ngf": True}, "generator.ngf = True"),
        ({"ngf": 10**9}, "generator.ngf = 1000000000"),
        ({"n_blocks": 2.5}, "generator.n_blocks = 2.5"),
        ({"n_blocks": -1}, "generator.n_blocks = -1"),
        ({"n_blocks": None}, "generator.n_blocks = None"),
        ({"n_downsampling": 40}, "generator.n_downsampling = 40"),
        ({"max_features": 1}, "too few to split"),
        ({"resnet_conv_kwargs": {"ratio_gin": 0.75}}, "the two ratios must be equal"),
        ({"resnet_conv_kwargs": 0.75}, "generator.resnet_conv_kwargs = 0.75"),
        ({"resnet_conv_kwargs": {}}, "generator.resnet_conv_kwargs"),
        ({"init_conv_kwargs": {"ratio_gout": 0.5}}, "generator.init_conv_kwargs"),
        ({"init_conv_kwargs": {"ratio_gin": "x"}}, "generator.init_conv_kwargs.ratio_gin = 'x'"),
        ({"ngf": "${nowhere}"}, "generator can't be resolved"),
        ({"ngf": "${env:WIDTH}"}, "generator can't be resolved"),
        ({"ngf": "???"}, "generator can't be resolved"),
    ],
)
def test_a_setting_that_cannot_be_served_is_named_with_its_value(tmp_path, changes, said):
    assert said in refusal(tiny.write_config(tmp_path / "config.yaml", **changes))


@pytest.mark.parametrize("setting", ["enable_lfu", "gated", "use_se", "something_new"])
def test_a_variant_that_no_published_network_uses_is_named(tmp_path, setting):
    ratios = {"ratio_gin": 0.75, "ratio_gout": 0.75}
    on = tiny.write_config(tmp_path / "on.yaml", resnet_conv_kwargs={**ratios, setting: True})
    assert f"generator.resnet_conv_kwargs.{setting} = True" in refusal(on)
    off = tiny.write_config(tmp_path / "off.yaml", resnet_conv_kwargs={**ratios, setting: False})
    assert load_train_config(off).generator.ngf == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "generator is missing"),
        ("a: 1", "generator is missing"),
        ("generator: 5", "generator is 5"),
        ("generator: [1, 2]", "generator is [1, 2]"),
        ("generator:", "generator is missing"),
        ("- a\n- b", "top level is not a mapping"),
        ("just words", "generator is missing"),
        ("a: [1, 2", "no valid YAML"),
        ("generator: {ngf: 8\nb: :", "no valid YAML"),
        ("a: 1\na: 2", "no valid YAML"),
        ("a: ${b", "no valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "no valid YAML"),
        ("[" * 5000, "no valid YAML"),
    ],
)
def test_a_config_that_is_none_says_why(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert said in refusal(path)


def test_a_config_that_is_no_text_or_not_there_says_so(tmp_path):
    path = tmp_path / "config.yaml"
    assert "no such file" in refusal(path)
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert "can't be read" in refusal(path) or "no valid YAML" in refusal(path)
    path.write_bytes(b"# filler\n" * 200_000)
    assert "1800000 bytes" in refusal(path)
    assert "a folder, not a file" in refusal(tmp_path)
