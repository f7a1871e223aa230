"""Large holes: refined where it is meant to be, within bounds, and leaving no trace."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from lama.inference import batch_inference
from lama.refinement import Budget, Refiner, agreement
from lama.refinement.agreement import Disagreement, agree
from lama.refinement.halves import Halves
from lama.refinement.holes import halvings, large_holes, surroundings, window
from lama.refinement.pyramid import composite, pyramid, smaller
from lama.regions.boxes import Box, whole
from tests.lama import tiny

#: Small pictures have several scales with it.
SMALL = Budget(iterations=4, smallest_side=48, least_extent=24)

CPU = torch.device("cpu")


def texture(height, width, seed=0):
    """uint8 H×W×3: waves, so that no ground is a plane, and a hole isn't noise."""
    y, x = np.mgrid[:height, :width]
    phases = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = [128 + 60 * np.sin(x / 9 + p) + 50 * np.cos(y / 7 - p) for p in phases]
    return np.rint(np.stack(waves, -1)).astype(np.uint8)


def holes(height, width, *boxes):
    mask = np.zeros((height, width), np.uint8)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = 255
    return mask


LARGE = (40, 50, 90, 110)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For tensors as small as these, threads that wait for each other take longer than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    """A network whose output depends on the features."""
    network = tiny.tiny_model()
    with torch.no_grad():
        network.generator.model[-2].weight.mul_(30)
    return network


@pytest.fixture
def fill(model):
    def normal(images, masks):
        return batch_inference(images, masks, model, {}, "cpu", False)

    return normal


def refiner(model, budget=SMALL, **options):
    return Refiner(model, "cpu", budget=budget, **options)


@pytest.fixture
def nothing_may_be_filled(monkeypatch):
    def refuse(*_):
        raise AssertionError("nothing may be filled")

    monkeypatch.setattr("lama.refinement.batch_inference", refuse)


# -- what is filled, and what is not --------------------------------------------------------------


def test_a_large_hole_is_filled_anew_and_nothing_else_is_touched(model, fill):
    image, mask = texture(150, 170), holes(150, 170, LARGE, (120, 20, 130, 60))
    before = image.copy(), mask.copy()
    (usual,) = fill([image], [mask])
    kept = usual.copy()
    (result,) = refiner(model).fill([image], [mask])
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    assert np.array_equal(result[mask == 0], image[mask == 0])
    large = np.zeros_like(mask, bool)
    large[LARGE[0] : LARGE[2], LARGE[1] : LARGE[3]] = True
    assert not np.array_equal(result[large], usual[large])
    assert np.array_equal(result[~large], usual[~large])
    assert not np.shares_memory(result, usual)
    assert np.array_equal(usual, kept)
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (holes(150, 170, (40, 10, 60, 160)), "a line of text is long, but not high"),
        (np.zeros((150, 170), np.uint8), "no hole"),
        (np.full((150, 170), 255, np.uint8), "nothing to go by"),
    ],
)
def test_other_holes_go_the_normal_way(model, fill, nothing_may_be_filled, mask, why):
    image = texture(150, 170)
    (usual,) = fill([image], [mask])
    assert refiner(model)([image], [mask], [usual])[0] is usual, why


def test_a_hole_in_a_plane_of_colour_goes_the_normal_way(model, nothing_may_be_filled):
    image, mask = np.full((150, 170, 3), 200, np.uint8), holes(150, 170, LARGE)
    assert refiner(model)([image], [mask], [image])[0] is image


def test_a_hole_in_the_padding_goes_the_normal_way(model, fill):
    image, mask = texture(300, 170), holes(300, 170, LARGE, (200, 50, 250, 110))
    (usual,) = fill([image], [mask])
    (result,) = refiner(model)([image], [mask], [usual], [(0, 0, 150, 0)])
    changed = (result != usual).any(axis=2)
    assert changed[:150].any()
    assert not changed[150:].any()


def test_a_picture_that_is_small_enough_as_it_is_goes_the_normal_way(model, nothing_may_be_filled):
    image, mask = texture(150, 170), holes(150, 170, LARGE)
    refine = refiner(model, replace(SMALL, smallest_side=150))
    assert np.array_equal(refine([image], [mask], [image])[0], image)


@pytest.mark.parametrize(
    "box", [(0, 0, 60, 60), (90, 110, 150, 170), (0, 40, 150, 100), (101, 0, 150, 169)]
)
def test_holes_at_the_edges_are_filled_within_the_picture(model, fill, box):
    image, mask = texture(150, 170), holes(150, 170, box)
    result = refiner(model).fill([image], [mask])[0]
    assert np.array_equal(result[mask == 0], image[mask == 0])
    assert not np.array_equal(result, fill([image], [mask])[0])


def test_masks_may_be_grey_and_have_a_third_axis(model, fill):
    image, mask = texture(150, 170), holes(150, 170, LARGE)
    usual = fill([image], [mask])
    (expected,) = refiner(model)([image], [mask], usual)
    grey = np.maximum(mask, 90)[..., None]
    (result,) = refiner(model, mask_threshold=90)([image], [grey], usual)
    assert np.array_equal(result, expected)


def test_what_is_hidden_in_the_hole_does_not_matter(model):
    image, mask = texture(150, 170), holes(150, 170, LARGE)
    other = np.where((mask > 0)[..., None], np.uint8(255), image)
    refined = refiner(model).fill
    assert np.array_equal(refined([image], [mask])[0], refined([other], [mask])[0])


def test_the_same_input_gives_the_same_bytes_whatever_is_beside_it(model):
    images = [texture(150, 170, 1), texture(130, 200, 2)]
    masks = [holes(150, 170, LARGE), holes(130, 200, LARGE)]
    refined = refiner(model).fill
    together = refined(images, masks)
    for image, mask, result in zip(images, masks, together, strict=True):
        assert np.array_equal(refined([image], [mask])[0], result)


# -- the optimisation -----------------------------------------------------------------------------


def two_scales(image, mask):
    """A window of the larger scale, and the smaller one with the hole in one colour."""
    hole = mask > 0
    large, small = pyramid(image, hole, hole, 1, CPU)
    target = small.image * (1 - small.hole) + 0.3 * small.hole
    return large, target


@pytest.mark.parametrize("rear_blocks", [0, 1, 2, 9])
def test_refinement_lowers_the_disagreement_between_the_scales(model, rear_blocks):
    large, target = two_scales(texture(128, 144), holes(128, 144, LARGE))
    halves = Halves(model.generator, rear_blocks)
    wanted = Disagreement(large, target, halves.stride)

    def differs(predicted):
        part = predicted[:, :, wanted.part.slices[0], wanted.part.slices[1]]
        return float(wanted.between_scales(part))

    features = halves.front(large.image, large.hole)
    with torch.no_grad():
        before = float(wanted.between_scales(halves.rear(features, wanted.part)))
    budget = Budget(iterations=15, learning_rate=0.05)
    refined = agree(halves, large, target, budget, torch.float32, lambda: None)
    assert differs(refined) < 0.97 * before


def test_the_scales_are_compared_inside_the_hole_only():
    large, target = two_scales(texture(128, 144), holes(128, 144, LARGE))
    wanted = Disagreement(large, target, 8)
    part = large.cut(wanted.part)
    predicted = torch.where(part.own > 0, 0.3, 0.9).expand(1, 3, -1, -1)
    assert float(wanted.between_scales(predicted)) < 1e-6
    assert float(wanted.from_known(predicted)) > 0.1
    assert float(wanted.from_known(part.image)) == 0


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_front_and_rear_are_the_generator(blocks):
    generator = tiny.tiny_generator(n_blocks=3)
    halves = Halves(generator, blocks)
    image, hole = torch.rand(1, 3, 64, 80), torch.zeros(1, 1, 64, 80)
    hole[:, :, 20:40, 30:50] = 1
    with torch.no_grad():
        expected = generator(torch.cat([image * (1 - hole), hole], dim=1))
        found = halves.rear(halves.front(image, hole), Box(0, 0, 64, 80))
        part = halves.rear(halves.front(image, hole), Box(8, 8, 64, 80))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # At the edge of what is decoded alone the decoder has less to see.
    torch.testing.assert_close(part[:, :, 16:, 16:], expected[:, :, 24:, 24:], atol=1e-6, rtol=0)


def test_bfloat16_steps_come_close_to_those_in_float32(model):
    large, target = two_scales(texture(128, 144), holes(128, 144, LARGE))
    halves = Halves(model.generator, 2)
    exact, half = (
        agree(halves, large, target, SMALL, dtype, lambda: None)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == torch.float32
    assert float((exact - half).abs().mean()) < 0.01


# -- bounds ---------------------------------------------------------------------------------------


def test_time_is_bounded_by_the_iterations_at_each_scale(model):
    image, mask = texture(200, 220), holes(200, 220, (60, 70, 130, 150))
    steps = []
    refine = refiner(model, progressed=lambda: steps.append(1))
    refine([image], [mask], [image])
    assert len(steps) == 1 + 2 * (SMALL.iterations + 1)  # 200 to 50 in two halvings


def test_a_hole_that_the_budget_does_not_suffice_for_goes_the_normal_way(
    model, fill, nothing_may_be_filled
):
    image, mask = texture(150, 170), holes(150, 170, LARGE)
    (usual,) = fill([image], [mask])
    refine = refiner(model, replace(SMALL, pixels=160 * 176 - 1))
    assert np.array_equal(refine([image], [mask], [usual])[0], usual)


def test_the_largest_holes_come_first_until_the_budget_is_used_up(model, fill):
    boxes = (10, 10, 40, 40), (10, 400, 60, 460)
    image, mask = texture(100, 500), holes(100, 500, *boxes)
    (usual,) = fill([image], [mask])

    def changed(pixels):
        refine = refiner(model, replace(SMALL, pixels=pixels))
        (result,) = refine([image], [mask], [usual])
        differ = result != usual
        return [bool(differ[y:bottom, x:right].any()) for y, x, bottom, right in boxes]

    assert changed(10**6) == [True, True]
    assert changed(176 * 112 + 1000) == [False, True]
    assert changed(0) == [False, False]


def test_a_window_has_no_more_than_the_hole_and_what_is_near():
    mask = holes(2048, 2048, (800, 800, 1200, 1200))
    hole = mask > 0
    (scale,) = pyramid(np.zeros((2048, 2048, 3), np.uint8), hole, hole, 0, CPU)
    assert window(scale.own, 16) == Box(672, 672, 1328, 1328)


@pytest.mark.parametrize(
    ("size", "hole", "count"),
    [
        ((1024, 1024), (400, 400, 600, 600), 1),
        ((2048, 2048), (800, 800, 1200, 1200), 2),
        ((20_000, 860), (10_000, 300, 10_100, 400), 1),
        ((512, 512), (100, 100, 300, 300), 0),
    ],
)
def test_the_smallest_scale_has_about_512_pixels(size, hole, count):
    around = surroundings(Box(*hole), Box(0, 0, *size))
    assert halvings(around, 512) == count
    assert max(around.size) <= 400 + 2 * 1024


@pytest.mark.parametrize("error", [MemoryError("no"), torch.OutOfMemoryError("no memory")])
def test_a_refinement_that_fails_leaves_the_normal_fill(model, fill, caplog, monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr(agreement.Halves, "rear", broken)
    image, mask = texture(150, 170), holes(150, 170, LARGE)
    (usual,) = fill([image], [mask])
    (result,) = refiner(model)([image], [mask], [usual])
    assert np.array_equal(result, usual)
    assert "is not refined" in caplog.text


def test_weights_that_give_nothing_finite_leave_the_normal_fill():
    broken = tiny.tiny_model()
    image, mask = texture(150, 170), holes(150, 170, LARGE)
    # The engine is made here, and keeps weights of its own.
    (usual,) = batch_inference([image], [mask], broken, {}, "cpu", False)
    with torch.no_grad():
        next(broken.generator.model[-2].parameters()).fill_(torch.nan)
    assert np.array_equal(refiner(broken)([image], [mask], [usual])[0], usual)


@pytest.mark.parametrize(
    "change",
    [{"iterations": 0}, {"learning_rate": 0}, {"smallest_side": 8}, {"pixels": -1}],
)
def test_a_budget_that_makes_no_sense_is_an_error_that_names_it(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Budget(**change)


# -- the model and its other users ----------------------------------------------------------------


@pytest.mark.parametrize("wants", [False, True])
def test_the_model_stays_as_it_was(wants):
    own = tiny.tiny_model().requires_grad_(wants)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    image, mask = texture(150, 170), holes(150, 170, LARGE)
    with torch.no_grad():  # as a caller might have it
        (result,) = refiner(own)([image], [mask], [image])
        assert not torch.is_grad_enabled()
    assert not np.array_equal(result, image)
    assert all(torch.equal(before[name], now) for name, now in own.state_dict().items())
    assert all(one.grad is None and one.requires_grad is wants for one in own.parameters())
    assert not own.training


def test_the_engine_and_several_refinements_run_at_the_same_time(model, fill):
    image, mask = texture(150, 170), holes(150, 170, LARGE)
    (usual,) = fill([image], [mask])
    refine = refiner(model)
    (refined,) = refine([image], [mask], [usual])
    found: list[bool] = []

    def again(do, expected):
        for _ in range(3):
            found.append(np.array_equal(do()[0], expected))

    threads = [
        threading.Thread(target=again, args=args)
        for args in [
            (lambda: fill([image], [mask]), usual),
            (lambda: refine([image], [mask], [usual]), refined),
            (lambda: refine([image], [mask], [usual]), refined),
        ]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 9


# -- holes and scales -----------------------------------------------------------------------------


def test_the_large_holes_are_found_the_largest_first():
    boxes = [(10, 10, 40, 40), (60, 20, 130, 90), (10, 60, 30, 160)]
    found = large_holes(texture(150, 170), holes(150, 170, *boxes) > 0, Box(0, 0, 150, 170), 24)
    assert [one.box for one in found] == [Box(60, 20, 130, 90), Box(10, 10, 40, 40)]
    assert all(one.own.all() for one in found)


def test_a_smaller_scale_shows_nothing_of_what_a_hole_hides():
    hole = holes(64, 96, (20, 30, 41, 61)) > 0
    images = [np.where(hole[..., None], np.uint8(value), texture(64, 96)) for value in (0, 255)]
    one, other = (pyramid(image, hole, hole, 2, CPU) for image in images)
    for low, high in zip(one, other, strict=True):
        differ = (low.image - high.image).abs().amax(dim=1, keepdim=True) > 1e-6
        assert not (differ & (low.hole == 0)).any()
    assert [tuple(scale.image.shape[2:]) for scale in one] == [(64, 96), (32, 48), (16, 24)]


def test_a_composite_is_the_image_outside_the_hole():
    hole = holes(64, 96, (20, 30, 41, 61)) > 0
    (scale,) = pyramid(texture(64, 96), hole, hole, 0, CPU)
    part = Box(16, 16, 48, 80)
    found = composite(scale, part, torch.ones(1, 3, 32, 64))
    assert (found[:, :, hole] == 1).all()
    assert torch.equal(found[:, :, ~hole], scale.image[:, :, ~hole])
    assert whole(found[0, 0].numpy()).size == (64, 96)
    assert smaller(found).shape == (1, 3, 32, 48)
