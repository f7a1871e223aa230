"""Training: it learns, resumes, and leaves whole checkpoints behind."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lama.bin import train as program
from lama.inference import load_lama_model
from lama.saicinpainting.training.modules.ffc import lama_fourier
from lama.saicinpainting.training.modules.precision import half_dtype
from lama.saicinpainting.training.trainers.errors import MismatchError
from lama.training import snapshots
from lama.training.data.batches import Recipe
from lama.training.loop import Budget, train
from lama.training.settings import (
    Settings,
    read_settings,
)
from lama.training.training import PATIENCE, Trainer, learning_rate
from lama.training.validation import hold_out
from tests.lama import tiny

CPU = torch.device("cpu")


def new_trainer(
    seed: int = 3,
    dtype: torch.dtype = torch.float32,
    batch_until: float = 1.0,
    muon: bool = False,
    lr: float = 0.003,
) -> Trainer:
    settings = Settings(
        Recipe(2, (32,)), lr=lr, validation_side=32,
        batch_until=batch_until, muon=muon,
    )  # fmt: skip
    return Trainer(OmegaConf.create(tiny.tiny_config()), settings, CPU, seed, dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Smooth pictures: something that a few steps can learn."""
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        small = np.random.default_rng(index).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        large = cv2.resize(small, (80, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "pictures" / f"{index}.png"), large)
    return tmp_path / "pictures"


def run(folder: Path, out: Path, steps: int, until: int | None = None, **options) -> Trainer:
    """A run of `steps`, interrupted after step `until`."""
    trainer = new_trainer(**options)
    stop: Callable[[], bool] = lambda: trainer.step == until  # noqa: E731
    train(trainer, folder, out, Budget(steps=steps), stop, say=lambda line: None)
    return trainer


@pytest.mark.parametrize(("muon", "lr"), [(False, 0.003), (True, 0.02)])
def test_a_few_steps_lower_the_loss(muon, lr):
    trainer = new_trainer(muon=muon, lr=lr)
    images = torch.rand(2, 3, 1, 1).expand(2, 3, 32, 32).contiguous()
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    losses = [trainer.train_step(images, mask, 0.0) for _ in range(40)]
    assert losses[-1]["hole"] < 0.5 * losses[0]["hole"]
    assert losses[-1]["known"] < 0.5 * losses[0]["known"]


@pytest.mark.parametrize("muon", [False, True])
def test_a_resumed_run_ends_like_one_that_was_never_interrupted(folder, tmp_path, muon):
    whole = run(folder, tmp_path / "whole", 12, muon=muon)
    run(folder, tmp_path / "parts", 12, until=7, muon=muon)
    parts = run(folder, tmp_path / "parts", 12, seed=3, muon=muon)
    assert parts.step == whole.step == 12
    pairs = [
        (whole.generator, parts.generator),
        (whole.average, parts.average),
    ]
    for one, other in pairs:
        for key, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[key]), key


def test_what_lies_around_the_blocks_is_moved_less_where_that_is_asked_for():
    moved = {}
    for outer in (1.0, 0.1):
        settings = replace(new_trainer().settings, outer=outer, muon=True)
        trainer = Trainer(OmegaConf.create(tiny.tiny_config()), settings, CPU, 3)
        before = {key: one.clone() for key, one in trainer.generator.named_parameters()}
        trainer.train_step(torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32), 0.0)
        moved[outer] = {
            key: float((one.detach() - before[key].detach()).abs().mean())
            for key, one in trainer.generator.named_parameters()
        }
    stem, block = "model.1.ffc.convl2l.weight", "model.5.conv1.ffc.convl2l.weight"
    assert moved[0.1][stem] == pytest.approx(0.1 * moved[1.0][stem], rel=0.05)
    assert moved[0.1][block] == pytest.approx(moved[1.0][block], rel=0.05)


def test_a_run_begins_as_a_wavelet_transform_where_the_config_says_so(folder, tmp_path, capsys):
    config = tiny.write_config(tmp_path / "config.yaml", ngf=32, n_blocks=1)
    given = [
        str(config), str(folder), "--out", str(tmp_path / "out"), "--steps", "1", "--device", "cpu",
        "data.sides=[32]", "initialisation.kind=wavelet",
        "optimizers.generator.kind=muon", "losses.decibels.weight=1",
    ]  # fmt: skip
    assert program.main(given) == 0
    last, _ = load_lama_model(
        tmp_path / "out" / "config.yaml", tmp_path / "out" / "models" / "last.ckpt", "cpu"
    )
    picture = torch.from_numpy(cv2.imread(str(folder / "0.png"))).permute(2, 0, 1)[None] / 255
    painted = last.predict(picture, torch.zeros(1, 1, 64, 80))
    # A random generator is at about 0.25.
    assert (painted - picture).abs().mean() < 0.08
    assert program.main([*given, "generator.ngf=16", "--out", str(tmp_path / "narrow")]) == 1
    assert "generator.ngf = 16" in capsys.readouterr().err


def test_weights_that_were_given_are_not_begun_anew(tmp_path):
    torch.save({"gen_state_dict": tiny.tiny_state()}, tmp_path / "given.ckpt")
    settings = replace(new_trainer().settings, wavelet=True)
    trainer = Trainer(OmegaConf.create(tiny.tiny_config()), settings, CPU, 3)
    trainer.start_from(str(tmp_path / "given.ckpt"))
    trainer.begin(torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32))
    for key, tensor in tiny.tiny_state().items():
        assert torch.equal(trainer.generator.state_dict()[key], tensor), key


def test_other_seeds_give_other_runs(folder, tmp_path):
    one, other = (run(folder, tmp_path / str(seed), 2, seed=seed) for seed in (1, 2))
    key = "model.1.ffc.convl2l.weight"
    assert not torch.equal(one.generator.state_dict()[key], other.generator.state_dict()[key])


def test_both_checkpoints_load_like_any_published_one(folder, tmp_path):
    trainer = run(folder, tmp_path / "out", 3)
    config = tiny.write_config(tmp_path / "config.yaml")
    last, _ = load_lama_model(config, tmp_path / "out" / "models" / "last.ckpt", "cpu")
    for key, tensor in trainer.average.state_dict().items():
        assert torch.equal(tensor, last.generator.state_dict()[key])
    best, _ = load_lama_model(config, tmp_path / "out" / "models" / "best.ckpt", "cpu")
    assert len(best.generator.state_dict()) == len(last.generator.state_dict())


def test_best_keeps_the_averaged_weights_with_convolutions_in_half_precision(tmp_path):
    trainer = new_trainer()
    snapshots.write_atomically(tmp_path / "best.ckpt", trainer.best_snapshot())
    stored = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    for key, tensor in trainer.average.state_dict().items():
        kept = stored[f"generator.{key}"]
        assert kept.dtype == (torch.float16 if tensor.ndim == 4 else tensor.dtype)
        assert torch.allclose(kept.to(tensor.dtype), tensor, rtol=1e-3, atol=1e-6)


def test_best_of_the_narrow_network_is_at_most_16_megabytes(tmp_path):
    content = snapshots.container(lama_fourier(ngf=32).state_dict(), 0, half=True)
    snapshots.write_atomically(tmp_path / "best.ckpt", content)
    assert (tmp_path / "best.ckpt").stat().st_size <= 16_000_000


def test_an_interruption_in_the_middle_of_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    snapshots.write_atomically(path, {"step": 1})
    before = path.read_bytes()

    def interrupted(content, file):
        file.write(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        snapshots.write_atomically(path, {"step": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_best_stays_when_later_weights_are_worse(folder, tmp_path):
    trainer = run(folder, tmp_path / "out", 2)
    best = tmp_path / "out" / "models" / "best.ckpt"
    before = best.read_bytes()
    trainer = new_trainer()
    content = torch.load(tmp_path / "out" / "models" / "last.ckpt", weights_only=True)
    content["training"]["best"] = 99.0
    snapshots.write_atomically(tmp_path / "out" / "models" / "last.ckpt", content)
    train(trainer, folder, tmp_path / "out", Budget(steps=4), say=lambda line: None)
    assert best.read_bytes() == before
    assert trainer.best == 99


def test_small_batches_take_running_statistics_and_leave_them_as_they_are():
    config = OmegaConf.create(tiny.tiny_config())
    assert read_settings(config, CPU, given=True).batch_until == 0
    assert 0 < read_settings(config, CPU).batch_until < 1
    config.merge_with_dotlist(["data.batch_size=32"])
    assert read_settings(config, CPU).batch_until < 1, "of the largest crops it has but a few"
    config.merge_with_dotlist(["data.sides=[96]"])
    assert read_settings(config, CPU).batch_until == 1
    trainer = new_trainer(batch_until=0.5)
    images, mask = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    mask[..., :8] = 1
    key = "model.1.bn_l.running_mean"
    before = trainer.generator.state_dict()[key].clone()
    trainer.train_step(images, mask, 0.4)
    between = trainer.generator.state_dict()[key].clone()
    trainer.train_step(images, mask, 0.6)
    assert not torch.equal(before, between)
    assert torch.equal(trainer.generator.state_dict()[key], between)


def test_the_average_follows_the_weights_slowly():
    trainer = new_trainer()
    key = "model.1.ffc.convl2l.weight"
    start = trainer.generator.state_dict()[key].clone()
    images, mask = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    for _ in range(15):
        trainer.train_step(images, mask, 0.0)
    moved = (trainer.generator.state_dict()[key] - start).norm()
    averaged = (trainer.average.state_dict()[key] - start).norm()
    assert 0 < averaged < moved


def test_a_loss_that_is_not_finite_changes_no_weight_and_ends_the_run_if_it_stays():
    trainer = new_trainer()
    before = {key: tensor.clone() for key, tensor in trainer.generator.named_parameters()}
    images = torch.full((2, 3, 32, 32), torch.nan)
    hole = torch.ones(2, 1, 32, 32)
    for _ in range(PATIENCE - 1):
        trainer.train_step(images, hole, 0.0)
    with pytest.raises(FloatingPointError, match="isn't finite"):
        trainer.train_step(images, hole, 0.0)
    for key, tensor in trainer.generator.named_parameters():
        assert torch.equal(tensor, before[key])


@pytest.mark.skipif(half_dtype("cpu") != torch.bfloat16, reason="no bfloat16 here")
def test_in_bfloat16_weights_statistics_and_spectra_stay_float32():
    trainer = new_trainer(dtype=torch.bfloat16)
    seen = []
    for name, module in trainer.generator.named_modules():
        if name.endswith("fu.conv_layer"):
            module.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    trainer.train_step(torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32), 0.9)
    assert set(seen) == {torch.float32}
    tensors = trainer.generator.state_dict().values()
    assert {tensor.dtype for tensor in tensors} == {torch.float32, torch.int64}
    assert all(torch.isfinite(tensor).all() for tensor in tensors)


def test_the_program_trains_from_given_weights_and_says_how_it_goes(folder, tmp_path, capsys):
    weights = tmp_path / "given.ckpt"
    torch.save({"gen_state_dict": tiny.tiny_state()}, weights)
    config = tiny.write_config(tmp_path / "config.yaml")
    given = [
        str(config), str(folder), "--out", str(tmp_path / "out"), "--from", str(weights),
        "--steps", "2", "--device", "cpu", "data.sides=[32]",
    ]  # fmt: skip
    assert program.main(given) == 0
    said = capsys.readouterr().out
    assert re.search(r"step 2: \d+\.\d\d dB held out", said)
    best = tmp_path / "out" / "models" / "best.ckpt"
    model, _ = load_lama_model(tmp_path / "out" / "config.yaml", best, "cpu")
    start = tiny.tiny_generator().state_dict()
    for key, parameter in model.generator.named_parameters():
        assert torch.allclose(parameter, start[key], atol=0.02), key
    assert program.main([*given, "--steps", "3"]) == 0
    assert "goes on at step 2" in capsys.readouterr().out
    anew = [word for word in given if word not in ("--from", str(weights))]
    assert program.main([*anew, "--steps", "4", "generator.ngf=16"]) == 1
    assert "of a run with another generator" in capsys.readouterr().err
    last = tmp_path / "out" / "models" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert program.main(given) == 1
    assert "last.ckpt: damaged" in capsys.readouterr().err


def test_a_request_to_stop_ends_the_step_saves_and_leaves_in_peace(folder, tmp_path, monkeypatch):
    step = Trainer.train_step

    def interrupted(trainer, *arguments):
        if trainer.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    config = tiny.write_config(tmp_path / "config.yaml")
    given = [
        str(config), str(folder), "--out", str(tmp_path / "out"), "--steps", "9",
        "--device", "cpu", "data.sides=[32]",
    ]  # fmt: skip
    assert program.main(given) == 0
    last = torch.load(tmp_path / "out" / "models" / "last.ckpt", weights_only=True)
    assert last["training"]["step"] == 3
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_line_of_progress_has_speed_losses_and_time_left(folder, tmp_path):
    lines: list[str] = []
    train(
        new_trainer(), folder, tmp_path / "out", Budget(steps=3), report_every_s=0, say=lines.append
    )  # fmt: skip
    line = next(line for line in lines if line.startswith("step 2  "))
    assert re.search(r"\d+\.\d img/s .*known \d\.\d{4} .* 66\.7 %  \d+:\d\d:\d\d left", line)


def test_problems_are_one_line_on_standard_error(tmp_path, capsys):
    config = tiny.write_config(tmp_path / "config.yaml")
    assert program.main([str(config), str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'}: no such folder")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "gpu"], "device 'gpu': 'cpu', 'cuda' or 'cuda:0' is needed"),
        (["--out", "/proc/none"], "/proc/none"),
        (["fast"], "fast: name=value is needed"),
        (
            ["data.batchsize=3"],
            "data.batchsize=3: nothing reads data.batchsize; is data.batch_size",
        ),
        (["data.batch_size=x"], "data.batch_size = 'x': a whole number is needed"),
        (["losses.l1=3"], "losses.l1 = 3: a mapping is needed"),
    ],
)
def test_a_wrong_option_is_one_line_and_begins_nothing(folder, tmp_path, capsys, words, said):
    config = tiny.write_config(tmp_path / "config.yaml")
    out = tmp_path / "out"
    assert program.main([str(config), str(folder), "--out", str(out), "--steps", "1", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_weights_of_another_size_are_refused(tmp_path):
    torch.save({"gen_state_dict": tiny.tiny_state(ngf=16)}, tmp_path / "wide.ckpt")
    with pytest.raises(MismatchError, match="another shape"):
        new_trainer().start_from(str(tmp_path / "wide.ckpt"))


def test_a_budget_of_minutes_counts_training_time_and_the_first_limit_ends_it():
    budget = Budget(minutes=2, steps=1000)
    assert budget.progress(100, 30) == 0.25
    assert budget.progress(900, 30) == 0.9
    assert budget.progress(5000, 30) == 1


def test_the_learning_rate_rises_stays_and_falls_with_the_schedule():
    assert learning_rate(0, 0) < 0.02
    assert learning_rate(0.2, 500) == 1
    assert 0.3 < learning_rate(0.65, 500) < 0.7
    assert learning_rate(1, 500) == pytest.approx(0.01)


def test_held_out_pictures_are_not_learnt_from_where_there_are_enough():
    files = [Path(f"{index:03}.png") for index in range(100)]
    rest, held = hold_out(files)
    assert len(held) == 7
    assert not set(rest) & set(held)
    assert hold_out(files[:3]) == (files[:3], files[:1])
