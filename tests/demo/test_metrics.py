"""The demo's numbers, on cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.keys import Kind
from demo.lettering import MaskStyle
from demo.metrics import measure, psnr, ssim
from demo.scenes import Scene


def picture(height: int = 64, width: int = 64) -> np.ndarray:
    values = np.random.default_rng(0).integers(20, 200, (height, width, 3))
    return values.astype(np.uint8)


def half_hole(height: int = 64, width: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = 255
    return mask


def scene(height: int = 64, width: int = 64, kind: Kind = Kind.SHORT) -> Scene:
    clean, mask = picture(height, width), half_hole(height, width)
    before = clean.copy()
    before[mask > 0] = 255
    return Scene("known", kind, MaskStyle.BOXES, clean, before, mask)


def test_psnr_of_a_constant_difference_is_the_textbook_value() -> None:
    clean = picture()
    assert psnr(clean, clean + np.uint8(10), half_hole() > 0) == pytest.approx(
        20 * math.log10(255 / 10)
    )


def test_psnr_counts_the_pixels_of_the_hole_only() -> None:
    clean, hole = picture(), half_hole() > 0
    other = clean.copy()
    other[~hole] = 0
    assert psnr(clean, other, hole) == math.inf


def test_psnr_averages_over_the_hole() -> None:
    clean = picture()
    other = clean.copy()
    other[:16] += np.uint8(10)  # half of the hole
    assert psnr(clean, other, half_hole() > 0) == pytest.approx(10 * math.log10(255**2 / 50))


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    clean, hole = picture(), half_hole() > 0
    noisy = np.clip(clean + np.random.default_rng(1).normal(0, 40, clean.shape), 0, 255).astype(
        np.uint8
    )
    assert ssim(clean, clean, hole) == pytest.approx(1)
    assert ssim(clean, noisy, hole) < 0.9


def test_a_perfect_result_is_infinitely_close_and_leaves_the_rest_alone() -> None:
    known = scene()
    numbers = measure(known, known.clean)
    assert numbers.hole_percent == pytest.approx(50)
    assert numbers.psnr == math.inf
    assert numbers.text_psnr < 20
    assert numbers.ssim == pytest.approx(1)
    assert numbers.text_ssim < 0.9
    assert numbers.rest_identical


def test_one_changed_value_outside_the_hole_is_noticed() -> None:
    known = scene()
    after = known.clean.copy()
    after[-1, -1, 0] ^= 1
    assert not measure(known, after).rest_identical


def test_a_result_of_another_size_is_refused() -> None:
    known = scene()
    with pytest.raises(ValueError, match=r"known has shape \(32, 64, 3\), not \(64, 64, 3\)"):
        measure(known, known.clean[:32])


def test_a_changed_pixel_right_beside_the_mask_is_noticed() -> None:
    known = scene()
    beside = next(
        (y, x)
        for y, x in np.argwhere(known.mask == 0)
        if known.mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()
    )
    after = known.clean.copy()
    after[beside] ^= 1
    assert not measure(known, after).rest_identical
