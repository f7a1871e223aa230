"""Evaluation: numbers that can be worked out by hand, and samples that come again."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lama.bin import evaluate as program
from lama.evaluation import methods, metrics
from lama.evaluation.report import Score, markdown, rows
from lama.evaluation.samples import KINDS, make_hole, samples
from lama.saicinpainting.training.trainers import CheckpointError
from tests.lama import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for index, size in enumerate([(150, 120), (96, 200)]):
        picture = np.full((*size, 3), 40 + 100 * index, np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{index}.png"), picture)
    return tmp_path / "pictures"


def test_psnr_counts_the_hole_and_nothing_else():
    original = np.full((40, 40, 3), 100, np.uint8)
    hole = tiny.box_mask(40, 40) > 0
    filled = original.copy()
    filled[hole] += 51
    filled[~hole] = 0
    error = metrics.squared_error(filled, original, hole)
    assert error == pytest.approx(0.04)
    assert metrics.decibels(error) == pytest.approx(13.979, abs=0.001)


def test_a_flawless_fill_has_the_highest_numbers_there_are():
    original = tiny.picture(40, 40)
    hole = tiny.box_mask(40, 40) > 0
    assert metrics.decibels(metrics.squared_error(original, original, hole)) == metrics.CAP
    assert metrics.ssim(original, original, hole) == 1


def test_ssim_sees_the_seam_eight_pixels_around_the_hole_and_no_farther():
    original = tiny.picture(64, 64)
    hole = np.zeros((64, 64), bool)
    hole[28:36, 28:36] = True
    # A window of 7 reaches 3 pixels.
    changed = original.copy()
    changed[:16] = 0
    assert metrics.ssim(changed, original, hole) == 1
    changed[:20] = 0
    assert metrics.ssim(changed, original, hole) < 1


def test_means_are_of_decibels_and_of_pooled_errors():
    scores = [Score("a", (8, 8), "boxes", "m", error, 0.5, 1.0) for error in (0.01, 0.0001)]
    (row,) = rows(scores)
    assert row["pictures"] == 2
    assert row["psnr"] == pytest.approx(30)
    assert row["psnr_pooled"] == pytest.approx(22.967, abs=0.001)
    assert "| m | 2 | 30.00 | 22.97 | 0.5000 | 1.00 |" in markdown([row], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_holes_come_again_with_their_seed(kind):
    one, other, third = (
        make_hole(np.random.default_rng(seed), (256, 256), kind) for seed in (1, 1, 2)
    )
    assert (one == other).all()
    assert (one != third).any()
    assert 0.005 < one.mean() < 0.6


def test_samples_are_letterboxed_and_measured_inside_the_picture_only(folder):
    files = sorted(folder.iterdir())
    found = list(samples(files, [(512, 512), (864, 1504)], ["boxes", "strokes"], 0))
    assert len(found) == 8
    for sample in found:
        assert sample.picture.shape[:2] == sample.hole.shape == sample.size
        assert (sample.hole | ~sample.measured).all()
        assert 0 < sample.measured.sum() < sample.hole.sum()
    alone = list(samples(files[1:], [(512, 512)], ["strokes"], 0))
    assert (alone[0].hole == found[5].hole).all()


def test_biharmonic_is_left_out_where_it_would_take_too_long(monkeypatch):
    picture = tiny.picture(32, 32)
    hole = tiny.box_mask(32, 32) > 0
    filled = methods.biharmonic(picture, hole)
    assert filled is not None
    assert filled.dtype == np.uint8
    monkeypatch.setattr(methods, "BIHARMONIC_MOST", int(hole.sum()) - 1)
    assert methods.biharmonic(picture, hole) is None


def test_the_program_compares_methods_on_flat_pictures(folder, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    config = tiny.write_config(tmp_path / "config.yaml")
    checkpoint = tmp_path / "models" / "best.ckpt"
    prefixed = {f"generator.{key}": value for key, value in tiny.tiny_state().items()}
    torch.save({"state_dict": prefixed}, checkpoint)
    assert config.exists()
    done = program.main(
        [
            str(folder), "--checkpoint", str(checkpoint), "--methods", "telea", "navier-stokes",
            "--sizes", "128x128", "--kinds", "boxes", "glyphs", "--out", str(tmp_path / "out"),
            "--device", "cpu",
        ]
    )  # fmt: skip
    assert done == 0
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table["files"] == ["0.png", "1.png"]
    found = {(row["kind"], row["method"]): row for row in table["rows"]}
    assert len(found) == 6
    for kind in ("boxes", "glyphs"):
        # Flat pictures: one method continues them without a flaw, one nearly so, untrained
        # weights don't.
        assert found[kind, "navier-stokes"]["psnr"] == metrics.CAP
        assert 40 < found[kind, "telea"]["psnr"] < metrics.CAP
        assert found[kind, "best.ckpt"]["psnr"] < 30
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out
    sheet = cv2.imread(str(tmp_path / "out" / "sheet.png"))
    assert sheet.shape[1] == 5 * 256


def test_a_checkpoint_needs_no_config_beside_it(tmp_path):
    path = tmp_path / "far" / "away" / "x.ckpt"
    with pytest.raises(CheckpointError, match="no such file; the weights"):
        methods.checkpoint_method(path, None, "cpu", False)
    path.parent.mkdir(parents=True)
    torch.save({"params_ema": tiny.tiny_state(n_blocks=1)}, path)
    fill = methods.checkpoint_method(path, None, "cpu", False)
    picture, mask = tiny.picture(32, 40), tiny.box_mask(32, 40)
    assert (fill(picture, mask > 0)[mask > 0] != picture[mask > 0]).any()
