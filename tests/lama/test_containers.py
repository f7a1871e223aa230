"""Every container that weights are published in gives the same state dict."""

from __future__ import annotations

import warnings
from collections import OrderedDict, defaultdict

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lama.saicinpainting.training.trainers import CheckpointError, load_checkpoint
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


PREFIXES = [
    "", "module.", "netG.", "net_g.", "generator.", "model.", "module.netG.", "module.generator.",
    "model.generator.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.",
    "generator._orig_mod.", "_orig_mod.generator.", "_forward_module._orig_mod.generator.",
    "_fsdp_wrapped_module.generator.", "ema_model.", "ema_model.module.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_bare_state_dict_may_have_prefixes(tmp_path, prefix):
    state = tiny.tiny_state()
    torch.save(OrderedDict((prefix + k, v) for k, v in state.items()), tmp_path / "bare.pth")
    assert_same(read_generator_state(tmp_path / "bare.pth"), state)
    safetensors.torch.save_file({prefix + k: v for k, v in state.items()}, tmp_path / "bare.pth")
    assert_same(read_generator_state(tmp_path / "bare.pth"), state)


@pytest.mark.parametrize("name", ["blocks2-ngf16", "blocks9-ngf8"])
def test_the_golden_weights_load_as_torch_compile_saves_them(tmp_path, golden_models, name):
    generator = golden_models[name].generator
    # What wraps only a part stands in the middle of its keys.
    compiled = {
        key.replace("model.", "model._orig_mod.", 1): tensor
        for key, tensor in generator.state_dict().items()
    }
    whole = torch.compile(nn.DataParallel(generator), backend="eager").state_dict()
    assert all(key.startswith("_orig_mod.module.model.") for key in whole)
    for state in (compiled, whole, {f"generator.{key}": value for key, value in whole.items()}):
        torch.save({"state_dict": state}, tmp_path / "best.ckpt")
        found = read_generator_state(tmp_path / "best.ckpt")
        assert_same(found, dict(generator.state_dict()))


def test_a_weight_under_two_names_is_refused(tmp_path):
    state = tiny.tiny_state()
    twice = {f"_orig_mod.{key}": tensor + 1 for key, tensor in state.items()}
    torch.save({**state, **twice}, tmp_path / "twice.pth")
    with pytest.raises(CheckpointError, match="under two names"):
        read_generator_state(tmp_path / "twice.pth")


CONTAINERS = [
    "params", "params_ema", "ema", "model_ema", "ema_state_dict", "state_dict", "gen_state_dict",
    "model", "netG", "model_state_dict", "weights", "ema.shadow", "models.generator",
]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "generator."])
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_state_dict_may_be_under_a_key(tmp_path, container, prefix):
    state = tiny.tiny_state(n_blocks=1)
    content = {prefix + key: tensor for key, tensor in state.items()}
    for key in reversed(container.split(".")):
        content = {key: content, "epoch": 3}
    torch.save(
        {**content, "optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}}}, tmp_path / "x"
    )
    assert_same(read_generator_state(tmp_path / "x"), state)


@pytest.mark.parametrize(
    ("chosen", "other"),
    [("state_dict", "model"), ("gen_state_dict", "state_dict"), ("params", "old")],
)
def test_the_published_layout_comes_first(tmp_path, chosen, other):
    state = tiny.tiny_state(n_blocks=1)
    rest = {key: tensor + 1 for key, tensor in state.items()}
    for content in ({chosen: state, other: rest}, {other: rest, chosen: state}):
        torch.save(content, tmp_path / "x.pth")
        assert_same(read_generator_state(tmp_path / "x.pth"), state)


AVERAGED = [
    ("params_ema", "params"), ("ema", "model"), ("ema", "state_dict"),
    ("state_dict_ema", "state_dict"), ("ema_state_dict", "state_dict"),
    ("generator_ema", "generator"), ("net_g_ema", "net_g"), ("netG_ema", "netG"), ("G_ema", "G"),
    ("g_ema", "g"), ("ema_model", "model"), ("model_ema", "model"), ("modelEMA", "model"),
    ("ema_0.9999", "model"), ("averaged", "model"), ("averaged_model", "model_no_ema"),
    ("generator_average", "generator"), ("swa_model", "model"), ("model_swa", "state_dict"),
    ("ema/shadow", "model"), ("callbacks/EMACallback/ema_state_dict", "state_dict"),
]  # fmt: skip


@pytest.mark.parametrize("wrapper", ["", "module.", "generator.", "module.generator."])
@pytest.mark.parametrize(("averaged", "plain"), AVERAGED)
def test_averaged_weights_come_before_others_under_every_name(tmp_path, averaged, plain, wrapper):
    state = tiny.tiny_state(n_blocks=1)
    content = {wrapper + key: tensor for key, tensor in state.items()}
    for key in reversed(averaged.split("/")):
        content = {key: content}
    rest = {plain: {wrapper + key: torch.zeros_like(tensor) for key, tensor in state.items()}}
    for whole in ({**content, **rest}, {**rest, **content}, {"epoch": 3, "saved": rest | content}):
        torch.save(whole, tmp_path / "x.pth")
        assert_same(read_generator_state(tmp_path / "x.pth"), state)


PREFIXED = [
    ("generator_ema.", "generator."), ("ema.", "generator."), ("ema.", ""), ("model_ema.", ""),
    ("net_g_ema.", "net_g."), ("G_ema.", "G."), ("ema_model.", "model."), ("ema.module.", "model."),
    ("generator_average.", "generator."), ("module.ema_model.module.", "module.model."),
    ("averaged_model.generator.", "generator."), ("swa_model.", "module."),
    ("generator.ema.", "generator.net."), ("ema_model.", "online_model."),
]  # fmt: skip


@pytest.mark.parametrize("container", ["", "state_dict", "model"])
@pytest.mark.parametrize(("averaged", "plain"), PREFIXED)
def test_averaged_weights_come_before_others_of_the_same_dict(tmp_path, averaged, plain, container):
    state = tiny.tiny_state(n_blocks=1)
    both = {averaged + key: tensor for key, tensor in state.items()}
    both |= {plain + key: torch.zeros_like(tensor) for key, tensor in state.items()}
    torch.save({container: both} if container else both, tmp_path / "x.pth")
    assert_same(read_generator_state(tmp_path / "x.pth"), state)
    if not container:
        safetensors.torch.save_file(both, tmp_path / "x.pth")
        assert_same(read_generator_state(tmp_path / "x.pth"), state)


def test_averages_of_the_parameters_alone_are_used_with_the_networks_own_statistics(tmp_path):
    state = tiny.tiny_state(n_blocks=1)
    parameters = {key for key, _ in tiny.tiny_generator(n_blocks=1).named_parameters()}
    averaged = {key: tensor for key, tensor in state.items() if key in parameters}
    plain = {key: tensor + (key in parameters) for key, tensor in state.items()}
    torch.save({"model": plain, "shadow": averaged}, tmp_path / "x.pth")
    assert_same(read_generator_state(tmp_path / "x.pth"), state)


def test_two_averages_that_nothing_tells_apart_are_refused(tmp_path):
    state = tiny.tiny_state(n_blocks=1)
    averages = {"ema_0.99": state, "ema_0.999": dict(state), "model": dict(state)}
    torch.save(averages, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"several generators: ema_0\.99, ema_0\.999; save"):
        read_generator_state(tmp_path / "x.pth")
    both = {f"{name}.{key}": v for name in ("gen", "net") for key, v in state.items()}
    torch.save(both, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"several generators: (gen, net|net, gen); save"):
        read_generator_state(tmp_path / "x.pth")


@pytest.mark.parametrize("key", ["", "swa", "model_ema"])
@pytest.mark.parametrize("inside", ["", "generator."])
def test_an_averaged_model_loads_with_its_count(tmp_path, key, inside):
    generator = tiny.tiny_generator(n_blocks=1)
    network = Wrapped(generator) if inside else generator
    average = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    average.update_parameters(network)
    state = average.state_dict()
    assert "n_averaged" in state
    assert f"module.{inside}model.1.ffc.convl2l.weight" in state
    torch.save({"model": network.state_dict(), key: state} if key else state, tmp_path / "x.pth")
    load_checkpoint(None, tmp_path / "x.pth")
    assert_same(read_generator_state(tmp_path / "x.pth"), dict(generator.state_dict()))


@pytest.mark.parametrize("is_safe", [True, False])
def test_batch_norms_need_no_counters(tmp_path, is_safe):
    generator = tiny.tiny_generator(n_blocks=1)
    state = {k: v for k, v in generator.state_dict().items() if not k.endswith("_tracked")}
    save = safetensors.torch.save_file if is_safe else torch.save
    save(state, tmp_path / "x")
    model = load_checkpoint(None, tmp_path / "x")
    assert_same(model.generator.state_dict(), generator.state_dict())
    state["model.1.bn_l.num_batches_tracked"] = torch.tensor([7.0])
    save(state, tmp_path / "x")
    model = load_checkpoint(None, tmp_path / "x")
    assert model.generator.state_dict()["model.1.bn_l.num_batches_tracked"] == 7


def test_two_generators_that_nothing_tells_apart_are_refused(tmp_path):
    state = tiny.tiny_state(n_blocks=1)
    torch.save({"first": state, "second": dict(state)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="several generators: first, second; save one alone"):
        read_generator_state(tmp_path / "x.pth")
    torch.save({"first": state, "again": state}, tmp_path / "x.pth")
    assert_same(read_generator_state(tmp_path / "x.pth"), state)


class Wrapped(nn.Module):
    """A whole network, as people pickle it together with its class."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator


@pytest.mark.parametrize("key", ["", "model"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickled_network_loads_without_its_class(tmp_path, monkeypatch, key, is_zip):
    generator = tiny.tiny_generator(n_blocks=1)
    whole = nn.DataParallel(Wrapped(generator))
    content = {key: whole, "epoch": 3} if key else whole
    with warnings.catch_warnings():
        # The older format looks for the source of each class.
        warnings.simplefilter("ignore")
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    monkeypatch.delattr(f"{__name__}.Wrapped")
    assert_same(read_generator_state(tmp_path / "x.pth"), dict(generator.state_dict()))


def test_tensors_that_share_numbers_load_each_with_its_own(tmp_path):
    state = tiny.tiny_state(n_blocks=1)
    numbers = torch.cat([tensor.flatten().float() for tensor in state.values()])
    shared, start = {}, 0
    for key, tensor in state.items():
        shared[key] = numbers[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    key = "model.1.ffc.convl2l.weight"
    shared[key] = state[key].transpose(2, 3).contiguous().transpose(2, 3)
    assert not shared[key].is_contiguous()
    for is_zip in (True, False):
        torch.save(shared, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
        found = read_generator_state(tmp_path / "x.pth")
        assert_same(found, state)
        assert all(tensor.is_contiguous() for tensor in found.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("is_zip", [True, False])
def test_other_precisions_load(tmp_path, dtype, is_zip):
    state = tiny.tiny_state(n_blocks=1)
    saved = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(saved, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    expected = {k: v.float() if v.is_floating_point() else v for k, v in saved.items()}
    assert_same(read_generator_state(tmp_path / "x.pth"), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_loads(tmp_path, protocol):
    state = tiny.tiny_state(n_blocks=1)
    torch.save({"state_dict": state}, tmp_path / "x.pth", pickle_protocol=protocol)
    assert_same(read_generator_state(tmp_path / "x.pth"), state)


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


def test_a_frozen_script_is_refused_since_its_weights_are_code(tmp_path):
    module = tiny.Composite(tiny.tiny_generator())
    path = tiny.save_script(tmp_path / "plain.pt", module, trace=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
        torch.jit.freeze(torch.jit.load(path).eval()).save(tmp_path / "frozen.pt")
    with pytest.raises(CheckpointError, match="frozen TorchScript module has them in its code"):
        read_generator_state(tmp_path / "frozen.pt")


def test_a_structure_guided_network_is_refused(tmp_path):
    state = tiny.tiny_state()
    torch.save({"gen_state_dict": state, "str_state_dict": state}, tmp_path / "guided.ckpt")
    with pytest.raises(Exception, match="str_state_dict") as caught:
        read_generator_state(tmp_path / "guided.ckpt")
    assert type(caught.value).__name__ == "CheckpointError"
