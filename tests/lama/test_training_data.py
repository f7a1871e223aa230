"""What batches are made of: holes that cover what they should, pictures that come again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lama.training.data import masks
from lama.training.data.batches import Recipe, batches, make_batch, plan_batch
from lama.training.data.colours import Tint, apply_tints, random_tint, smooth
from lama.training.data.masks import KINDS, HolePlan, rasterise
from lama.training.data.pages import page
from lama.training.data.pictures import Crops, Pictures, picture_files
from lama.training.data.text import Slot, glyph_ink
from tests.lama import tiny

CPU = torch.device("cpu")


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(list(seed))


def holes(plan: HolePlan, size: tuple[int, int]) -> np.ndarray:
    return rasterise([plan], size, CPU)[0, 0].numpy() > 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, size in enumerate([(90, 120), (200, 64), (40, 40)]):
        cv2.imwrite(str(tmp_path / f"{index}.png"), tiny.picture(*size, seed=index))
    return tmp_path


slots = st.builds(
    Slot,
    x=st.floats(20, 76), y=st.floats(20, 76), width=st.floats(8, 60), height=st.floats(8, 24),
    angle=st.sampled_from([0.0, 0.0, 4.0, -17.5, 45.0, 90.0]),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(slot=slots, seed=st.integers(0, 99), margin=st.sampled_from([1, 2, 5]))
def test_a_text_lines_hole_covers_its_letters_and_a_margin_around_them(slot, seed, margin):
    ink = glyph_ink(rng(seed), [slot], (96, 96)) > 127
    plan = HolePlan()
    plan.add(slot.corners(), margin)
    hole = holes(plan, (96, 96))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin - 1, 2 * margin - 1))
    around = cv2.dilate(ink.astype(np.uint8), disc) > 0
    assert ink.any()
    assert hole[around].all()


@settings(max_examples=25, deadline=None)
@given(slot=slots, margin=st.sampled_from([0, 1, 3]))
def test_a_text_lines_hole_ends_at_its_margin(slot, margin):
    # In the middle, where no edge of the picture cuts it.
    slot = replace(slot, x=70, y=70)
    plan = HolePlan()
    plan.add(slot.corners(), margin)
    area = holes(plan, (140, 140)).sum()
    grown = (slot.width + 2 * margin) * (slot.height + 2 * margin)
    outline = 2 * (slot.width + slot.height) + 8 * margin
    assert abs(area - grown) <= outline + 4


def test_letters_touch_the_ends_of_their_slot():
    ink = glyph_ink(rng(3), [Slot(60, 30, 80, 20)], (64, 128)) > 100
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    assert abs(rows[0] - 20) <= 1
    assert abs(rows[-1] - 40) <= 1
    assert abs(columns[0] - 20) <= 1
    assert abs(columns[-1] - 100) <= 1


def test_glyph_holes_are_the_letters_dilated():
    ink = np.zeros((32, 32), np.uint8)
    ink[10, 12] = 255
    hole = holes(HolePlan(ink=ink, dilated=2), (32, 32))
    assert hole[8:13, 10:15].all()
    assert hole.sum() == 25


def test_a_piece_of_a_stroke_is_as_wide_as_it_says():
    plan = HolePlan()
    start, end = np.array([10, 20]), np.array([50, 20])
    plan.add(np.stack([start, end, end, start]), 3)
    hole = holes(plan, (40, 64))
    assert list(np.flatnonzero(hole[:, 30])) == list(range(17, 24))
    assert list(np.flatnonzero(hole[20])) == list(range(7, 54))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_hole_comes_again_with_its_seed_and_differs_with_another(kind):
    made = [holes(KINDS[kind](rng(seed), (128, 96)), (128, 96)) for seed in (1, 1, 2)]
    assert (made[0] == made[1]).all()
    assert (made[0] != made[2]).any()


def test_shapes_give_the_same_pixels_one_by_one_and_all_at_once():
    plans = [KINDS[kind](rng(8), (64, 80)) for kind in ("lines", "paragraphs", "strokes", "boxes")]
    one, other = (torch.zeros(4, 1, 64, 80, dtype=torch.bool) for _ in range(2))
    masks._add_one_by_one(one, plans)
    masks._add_all_at_once(other, plans)
    assert one.any(dim=3).any(dim=2).all()
    assert torch.equal(one, other)


def test_drawn_pictures_come_again_with_their_seed():
    def photograph(r: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        return r.integers(0, 256, (*size, 3), dtype=np.uint8)

    seen = set()
    for seed in range(40):
        picture, places = page(rng(seed), (96, 128), photograph)
        again, same = page(rng(seed), (96, 128), photograph)
        assert picture.dtype == np.uint8
        assert picture.shape == (96, 128, 3)
        assert (picture == again).all()
        assert places == same
        seen.add(picture.tobytes())
    assert len(seen) >= 39


def test_crops_keep_proportions_and_stay_within_small_pictures(folder):
    pictures = Pictures(picture_files(folder))
    for seed in range(30):
        crop = pictures.crop(rng(seed), (48, 96))
        assert abs(crop.shape[1] / crop.shape[0] - 2) < 0.1


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0])
def test_a_crop_has_the_scale_that_is_asked_for_and_is_brought_to_its_size(folder, scale):
    pictures = Pictures(picture_files(folder), Crops((scale, scale)))
    side = round(32 * scale)
    assert pictures.crop(rng(1), (32, 32)).shape == (side, side, 3)
    assert pictures.photograph(rng(1), (32, 32)).shape == (32, 32, 3)
    images, _ = make_batch(plan_batch(pictures, Recipe(4, (32,), drawn=0), 1, 0), CPU)
    assert images.shape == (4, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_crop_with_most_detail_is_taken_as_often_as_asked(tmp_path):
    # Grey on the left, noise on the right.
    picture = np.full((64, 512, 3), 128, np.uint8)
    picture[:, 384:] = rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "half.png"), picture)

    def detail(busiest: float) -> float:
        pictures = Pictures(picture_files(tmp_path), Crops((1, 1), busiest))
        return float(np.mean([pictures.crop(rng(seed), (64, 64)).std() for seed in range(60)]))

    assert detail(1.0) > 1.5 * detail(0.0)


def test_crops_are_stretched_as_far_as_is_asked_and_not_further(folder):
    pictures = Pictures(picture_files(folder), Crops((0.25, 0.25), stretched=2))
    shapes = np.array([pictures.crop(rng(seed), (96, 96)).shape[:2] for seed in range(60)])
    stretches = shapes[:, 0] / shapes[:, 1]
    assert 0.45 < stretches.min() < 0.7
    assert 1.4 < stretches.max() < 2.2


@pytest.mark.parametrize("size", [(40, 40), (20, 90), (200, 200)])
def test_a_turned_crop_shows_the_picture_turned_and_nothing_beside_it(tmp_path, size):
    # Two colours that rise along the sides: their gradients tell how a crop stands, and what is
    # reflected at the border of the picture would break them.
    rows, columns = np.mgrid[:120, :160].astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([rows, columns, np.zeros_like(rows)]))
    pictures = Pictures(picture_files(tmp_path), Crops((1, 1), turned=1))
    angles = []
    for seed in range(20):
        crop = pictures.crop(rng(seed), size).astype(float)
        assert abs(np.log(crop.shape[0] / crop.shape[1] / (size[0] / size[1]))) < 0.1
        down, across = (np.diff(crop[..., 1:], axis=axis) for axis in (0, 1))
        angle = np.arctan2(across[..., 1].mean(), across[..., 0].mean())
        # Rises of 1 a pixel, at right angles, the same everywhere but for rounding.
        for rise, wanted in ((across, angle), (down, angle + np.pi / 2)):
            assert np.abs(rise - (np.cos(wanted), np.sin(wanted))).max() < 1.2
            assert np.abs(rise.mean((0, 1)) - (np.cos(wanted), np.sin(wanted))).max() < 0.05
        angles.append(angle)
    assert np.std(angles) > 0.1


def test_an_unreadable_picture_is_replaced_and_named(folder, caplog):
    (folder / "0.png").write_bytes(b"none")
    assert Pictures(picture_files(folder)).picture(0).shape == (64, 64, 3)
    assert "0.png can't be read" in caplog.text


def test_a_folder_without_pictures_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match="no pictures"):
        picture_files(tmp_path)


@pytest.mark.parametrize("processes", [False, True])
def test_a_batch_is_a_function_of_seed_and_number(folder, processes):
    pictures, recipe = Pictures(picture_files(folder)), Recipe(3, (32, 64), smoothed=0.5)
    stream = batches(pictures, recipe, 5, 0, CPU, workers=2)
    first = [next(stream) for _ in range(4)]
    stream.close()
    later = batches(Pictures(picture_files(folder)), recipe, 5, 2, CPU, processes=processes)
    for images, holes_ in (first[2], first[3]):
        same, also = next(later)
        assert torch.equal(images, same)
        assert torch.equal(holes_, also)
    later.close()


def test_batches_hold_pictures_in_range_and_holes_that_leave_something(folder):
    pictures, recipe = Pictures(picture_files(folder)), Recipe(8, (64,))
    for step in range(6):
        images, mask = make_batch(plan_batch(pictures, recipe, 1, step), CPU)
        assert images.shape == (8, 3, 64, 64)
        assert mask.shape == (8, 1, 64, 64)
        assert images.min() >= 0
        assert images.max() <= 1
        assert set(mask.unique().tolist()) == {0, 1}
        share = mask.mean(dim=(1, 2, 3))
        assert share.min() > 0.002
        assert share.max() < 0.7


def test_as_many_crops_are_turned_as_asked_and_their_holes_are_not(folder):
    pictures = Pictures(picture_files(folder))
    recipe = Recipe(40, (64,), drawn=0, upended=0.5, transposed=0.5, smoothed=0)
    plan = plan_batch(pictures, recipe, 1, 0)
    turns = [(one.upended, one.transposed) for one in plan.plans]
    assert all(10 < sum(turned) < 30 for turned in zip(*turns, strict=True))
    images, mask = make_batch(plan, CPU)
    for one in plan.plans:
        one.upended, one.transposed = False, False
    as_they_were, same_mask = make_batch(plan, CPU)
    assert torch.equal(mask, same_mask)
    for image, before, (upended, transposed) in zip(images, as_they_were, turns, strict=True):
        standing = before.flip(1) if upended else before
        assert torch.equal(image, standing.mT if transposed else standing)
        assert not torch.equal(before, before.mT)
        assert not torch.equal(before, before.flip(1))


def test_crops_are_upended_now_and_then_unless_more_or_none_is_asked(folder):
    pictures, recipe = Pictures(picture_files(folder)), Recipe(100, (64,), drawn=0, smoothed=0)
    upended = [
        sum(one.upended for one in plan_batch(pictures, asked, 1, 0).plans)
        for asked in (replace(recipe, upended=0.0), recipe, replace(recipe, upended=1.0))
    ]
    assert upended[0] == 0
    assert 0 < upended[1] < 30
    assert upended[2] == 100


def test_tints_change_colours_and_none_changes_nothing():
    images = torch.rand(2, 3, 8, 8)
    assert torch.allclose(apply_tints(images, [Tint.none()] * 2), images)
    tints = [random_tint(rng(seed)) for seed in range(40)]
    tinted = apply_tints(images[:1].expand(40, 3, 8, 8), tints)
    assert torch.isfinite(tinted).all()
    assert 15 < sum((one - images[0]).abs().max() > 0.05 for one in tinted) < 40


def test_the_bilateral_filter_flattens_noise_and_keeps_edges():
    image = torch.full((1, 3, 16, 16), 0.2)
    image[..., 8:] = 0.8
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)) * 0.02
    done = smooth(image + noise)
    assert (done - image).std() < 0.6 * noise.std()
    assert (done[..., 8] - done[..., 7]).mean() > 0.55
