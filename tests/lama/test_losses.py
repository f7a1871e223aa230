"""The terms of the training loss, on cases whose answer is known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from lama.evaluation.metrics import ssim
from lama.training import reconstruction


def a_hole(share: int = 8) -> torch.Tensor:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :share] = 1
    return mask


TERMS = [reconstruction.hole_l1, reconstruction.dissimilarity]


@pytest.mark.parametrize("term", [*TERMS, reconstruction.known_l1])
def test_a_perfect_fill_costs_nothing(term):
    image = torch.rand(1, 3, 32, 32)
    assert term(image, image.clone(), a_hole()) == 0


@pytest.mark.parametrize("term", TERMS)
def test_every_term_over_the_hole_falls_as_a_fill_gets_better(term):
    torch.manual_seed(0)
    image, mask = torch.rand(1, 3, 32, 32), a_hole()
    bad = torch.where(mask > 0, torch.rand_like(image), image)
    better = 0.3 * bad + 0.7 * image
    assert 0 < term(better, image, mask) < term(bad, image, mask)


def test_a_thin_hole_weighs_as_much_as_a_large_one():
    image = torch.zeros(1, 3, 32, 32)
    for share in (1, 16):
        assert math.isclose(reconstruction.hole_l1(image + 0.5, image, a_hole(share)), 0.5)


def test_decibels_count_by_the_ratio_of_two_errors_down_to_the_floor():
    image, mask = torch.zeros(1, 3, 32, 32), a_hole()

    def at(error: float) -> float:
        return float(reconstruction.decibels(image + error, image, mask, floor=50))

    assert math.isclose(at(0.2) - at(0.1), 2 * math.log10(2), abs_tol=1e-3)
    assert math.isclose(at(0.4) - at(0.2), 2 * math.log10(2), abs_tol=1e-3)
    assert at(0) == pytest.approx(0, abs=1e-6)
    assert at(1e-4) < 0.001 * at(0.1)


def test_local_decibels_see_a_flat_grounds_tone_beside_a_missed_edge():
    image, mask = torch.zeros(1, 3, 32, 64), torch.zeros(1, 1, 32, 64)
    mask[..., 8:56] = 1

    def gain(term, floor: float) -> float:
        """Of halving the tone's error right of an edge whose error stays."""
        errors = [torch.full_like(image, size) * mask for size in (0.02, 0.01)]
        for error in errors:
            error[..., 8:14] = 0.8 * mask[..., 8:14]
        before, after = (float(term(image + error, image, mask, floor)) for error in errors)
        return before - after

    assert gain(reconstruction.decibels, 60) < 0.01
    # About two thirds of the hole see nothing of the edge.
    assert gain(reconstruction.local_decibels, 60) > 0.6 * 2 * math.log10(2)


def test_local_decibels_level_off_at_their_floor_and_see_nothing_outside_the_hole():
    image, mask = torch.zeros(1, 3, 32, 32), a_hole()

    def at(error: torch.Tensor) -> float:
        return float(reconstruction.local_decibels(image + error, image, mask, floor=42))

    assert at(torch.zeros(())) == pytest.approx(0, abs=1e-6)
    assert at(1 - mask) == pytest.approx(0, abs=1e-6)
    assert at(torch.tensor(1e-4)) < 0.001 * at(torch.tensor(0.1))


def test_the_known_part_counts_by_its_share_of_the_picture():
    image = torch.zeros(1, 3, 32, 32)
    assert math.isclose(reconstruction.known_l1(image + 0.5, image, a_hole(8)), 0.375)


def test_the_dissimilarity_is_one_less_the_ssim_that_evaluation_measures():
    rng = np.random.default_rng(0)
    original = cv2.GaussianBlur(rng.integers(0, 256, (64, 80, 3), np.uint8), (0, 0), 2)
    hole = np.zeros((64, 80), bool)
    hole[24:40, 20:60] = True
    noisy = np.clip(original + rng.normal(0, 12, original.shape), 0, 255).astype(np.uint8)
    filled = np.where(hole[..., None], noisy, original)
    measured = reconstruction.dissimilarity(
        *(torch.from_numpy(one).permute(2, 0, 1)[None] / 255 for one in (filled, original)),
        torch.from_numpy(hole)[None, None].float(),
    )
    assert 0.01 < measured == pytest.approx(1 - ssim(filled, original, hole), abs=1e-3)
