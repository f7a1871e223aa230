"""Every container that weights are published in gives the same state dict."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lama.saicinpainting.training.trainers import load_checkpoint
from lama.saicinpainting.training.trainers.checkpoints import read_generator_state
from tests.lama import tiny


class Outer(nn.Module):
    """One more level, as some exporters add it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.model(image, mask)


class Shell(nn.Module):
    """Scriptable modules around the parameters of a state dict, beside a foreign network."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.discriminator = nn.Conv2d(3, 3, 1)
        for key, tensor in state.items():
            module: nn.Module = self
            *path, name = key.split(".")
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(name, tensor)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.discriminator(image) * mask


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
        counter = key.endswith("num_batches_tracked")
        assert found[key].dtype == (torch.int64 if counter else torch.float32)


def test_the_two_golden_containers_hold_the_same_weights():
    models = tiny.GOLDEN / "blocks9-ngf8" / "models"
    lightning = read_generator_state(models / "best.ckpt")
    assert len(lightning) == 521
    assert_same(read_generator_state(models / "gen_state_dict.ckpt"), lightning)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "netG.", "generator.", "module.netG.", "module.generator."]
)
def test_a_bare_state_dict_may_have_prefixes(tmp_path, prefix):
    state = tiny.tiny_state()
    torch.save(OrderedDict((prefix + k, v) for k, v in state.items()), tmp_path / "bare.pth")
    assert_same(read_generator_state(tmp_path / "bare.pth"), state)


def test_a_state_dict_of_parameters_loads(tmp_path):
    generator = tiny.tiny_generator()
    torch.save(generator.state_dict(keep_vars=True), tmp_path / "parameters.pth")
    assert_same(read_generator_state(tmp_path / "parameters.pth"), tiny.tiny_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_load_in_each_precision(tmp_path, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tiny.tiny_state().items()}
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    expected = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    assert_same(read_generator_state(tmp_path / "weights.safetensors"), expected)


def test_a_container_is_told_by_its_content_not_its_name(tmp_path):
    state = tiny.tiny_state()
    safetensors.torch.save_file(state, tmp_path / "best.ckpt")
    torch.save({"gen_state_dict": state}, tmp_path / "weights.safetensors")
    for name in ("best.ckpt", "weights.safetensors"):
        assert_same(read_generator_state(tmp_path / name), state)


def test_a_safetensors_header_may_begin_like_a_pickle(tmp_path):
    state, path = tiny.tiny_state(), tmp_path / "weights.safetensors"
    # The file begins with its header's length, a multiple of 8; a pickle begins with 128.
    for extra in range(0, 512, 8):
        safetensors.torch.save_file(state, path, metadata={"note": "x" * extra})
        if path.read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no header of such a length")
    assert_same(read_generator_state(path), state)


def test_a_file_of_an_old_torch_loads(tmp_path):
    state = tiny.tiny_state()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(read_generator_state(tmp_path / "old.pth"), state)


def test_only_the_generator_of_a_lightning_file_counts(tmp_path):
    state = tiny.tiny_state()
    everything = {f"generator.{k}": v for k, v in state.items()}
    everything |= {
        "discriminator.model0.0.weight": torch.full((3,), float("nan")),
        "loss_pl.weight": torch.zeros(2),
    }
    checkpoint = {
        "epoch": 3,
        "state_dict": everything,
        "callbacks": defaultdict(list),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}}],
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert_same(read_generator_state(tmp_path / "last.ckpt"), state)


@pytest.mark.parametrize("nested", [False, True])
def test_a_traced_network_loads_and_computes_the_same(tmp_path, nested):
    generator = tiny.tiny_generator()
    module = Outer(tiny.Composite(generator)) if nested else tiny.Composite(generator)
    path = tiny.save_script(tmp_path / "big-lama.pt", module, trace=True)
    assert_same(read_generator_state(path), dict(generator.state_dict()))
    batch = tiny.as_batch((tiny.picture(24, 32), tiny.box_mask(24, 32)))
    expected = module(batch["image"], batch["mask"])
    loaded = load_checkpoint(tiny.tiny_config(), path)
    assert (loaded(batch)["inpainted"] - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("prefix", ["", "generator.", "model.generator."])
def test_a_scripted_network_loads(tmp_path, prefix):
    state = tiny.tiny_state()
    module = Shell({prefix + key: tensor for key, tensor in state.items()})
    path = tiny.save_script(tmp_path / "big-lama.pt", module, trace=False)
    found = read_generator_state(path)
    if not prefix:
        # Without a prefix nothing tells the discriminator from the generator.
        found = {key: tensor for key, tensor in found.items() if key in state}
    assert_same(found, state)


def test_a_structure_guided_network_is_refused(tmp_path):
    state = tiny.tiny_state()
    torch.save({"gen_state_dict": state, "str_state_dict": state}, tmp_path / "guided.ckpt")
    with pytest.raises(Exception, match="str_state_dict") as caught:
        read_generator_state(tmp_path / "guided.ckpt")
    assert type(caught.value).__name__ == "CheckpointError"
