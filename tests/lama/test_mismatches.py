"""Where config and file disagree, one line says what differs."""

from __future__ import annotations

import pytest
import torch

from lama.saicinpainting.training.trainers import (
    CheckpointError,
    ConfigError,
    MismatchError,
    load_checkpoint,
)
from tests.lama import tiny


def save(path, state):
    torch.save({"gen_state_dict": state}, path)
    return path


def mismatch(config, path) -> str:
    with pytest.raises(MismatchError) as caught:
        load_checkpoint(config, path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_another_number_of_blocks_names_both_numbers(tmp_path):
    path = save(tmp_path / "best.ckpt", tiny.tiny_state(n_blocks=3))
    message = mismatch(tiny.tiny_config(), path)
    assert "the file has n_blocks = 3, the config says 2" in message
    assert "ngf" not in message.partition(":")[2].partition(": set")[0]


def test_another_width_names_both_numbers(tmp_path):
    path = save(tmp_path / "best.ckpt", tiny.tiny_state(ngf=4))
    assert "the file has ngf = 4, the config says 8" in mismatch(tiny.tiny_config(), path)


def test_blocks_and_width_are_named_in_one_error(tmp_path):
    path = save(tmp_path / "best.ckpt", tiny.tiny_state(ngf=4, n_blocks=1))
    message = mismatch(tiny.tiny_config(), path)
    assert "n_blocks = 1" in message
    assert "ngf = 4" in message


def test_missing_surplus_and_misshapen_keys_are_counted_and_named_in_one_error(tmp_path):
    state = tiny.tiny_state()
    for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        del state[f"model.2.bn_l.{part}"]
    state["model.99.weight"] = torch.zeros(1)
    state["model.18.weight"] = torch.zeros(3, 8, 5, 5)
    message = mismatch(tiny.tiny_config(), save(tmp_path / "best.ckpt", state))
    assert "5 missing: model.2.bn_l.weight, model.2.bn_l.bias" in message
    assert "… (5 in all)" in message
    assert "1 surplus: model.99.weight" in message
    assert "1 of wrong shape: model.18.weight (3, 8, 5, 5) for (3, 8, 7, 7)" in message


def test_surplus_keys_pass_only_where_the_caller_is_not_strict(tmp_path):
    state = tiny.tiny_state()
    path = save(tmp_path / "best.ckpt", {**state, "ema": torch.zeros(1)})
    assert "1 surplus: ema" in mismatch(tiny.tiny_config(), path)
    model = load_checkpoint(tiny.tiny_config(), path, strict=False)
    assert set(model.generator.state_dict()) == set(state)


def test_keys_that_are_no_names_are_surplus_by_their_numbers(tmp_path):
    state = tiny.tiny_state()
    surplus = {3: torch.zeros(2), 4: torch.zeros(2), "module": torch.zeros(2)}
    message = mismatch(tiny.tiny_config(), save(tmp_path / "best.ckpt", {**state, **surplus}))
    assert "3 surplus: 3, 4, module" in message
    torch.save(dict(enumerate(state.values())), tmp_path / "best.ckpt")
    with pytest.raises(CheckpointError, match=r"its keys: 0, 1, 2, … \(\d+ in all\)"):
        load_checkpoint(None, tmp_path / "best.ckpt")


def test_missing_keys_never_pass(tmp_path):
    state = tiny.tiny_state()
    del state["model.18.bias"]
    path = save(tmp_path / "best.ckpt", state)
    with pytest.raises(MismatchError, match=r"1 missing: model\.18\.bias"):
        load_checkpoint(tiny.tiny_config(), path, strict=False)


def test_a_scalar_in_place_of_the_first_weight_is_a_mismatch(tmp_path):
    state = {**tiny.tiny_state(), "model.1.ffc.convl2l.weight": torch.tensor(1.0)}
    mismatch(tiny.tiny_config(), save(tmp_path / "best.ckpt", state))


def test_the_config_is_checked_before_the_file(tmp_path):
    with pytest.raises(ConfigError, match="kind"):
        load_checkpoint(tiny.tiny_config(kind="pix2pixhd_global"), tmp_path / "absent")


def test_the_network_owns_its_weights(tmp_path):
    path = save(tmp_path / "best.ckpt", tiny.tiny_state())
    model = load_checkpoint(tiny.tiny_config(), path)
    path.write_bytes(b"gone")
    expected = tiny.tiny_state()
    for key, tensor in model.generator.state_dict().items():
        assert torch.equal(tensor, expected[key])
    assert not any(p.requires_grad for p in model.parameters())
