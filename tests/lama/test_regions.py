"""What the network is shown of a picture, and that nothing but the holes changes."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lama.inference import batch_inference, load_lama_model
from lama.regions import MARGIN, MOST_AT_ONCE, inpaint
from lama.regions.boxes import rounded_up
from lama.regions.planes import MOST_HOLES
from lama.regions.windows import CONTEXT, LONGEST_SIDE
from tests.lama import tiny
from tests.lama.shown import FILL, NO_PADDING, Recorder, check, holes, noise, run

# -- what holds in every region -------------------------------------------------------------------


@pytest.mark.parametrize("region", ["full", "content", "mask"])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 300), (300, 1), (7, 5), (64, 64), (65, 129), (200, 900)]
)
def test_every_hole_pixel_is_filled_and_nothing_else_changes(region, size):
    image, mask = noise(*size), tiny.box_mask(*size)
    result, _ = run(image, mask, region)
    assert (result[mask > 0] == FILL).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_holes_in_any_padding_are_filled_in_the_content(data):
    height, width = (data.draw(st.integers(1, 700)) for _ in range(2))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom = data.draw(st.integers(0, height - 1 - top))
    right = data.draw(st.integers(0, width - 1 - left))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(data.draw(st.integers(0, 12))):
        y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        down, across = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 400))
        mask[y : y + down, x : x + across] = data.draw(st.integers(1, 255))
    region = data.draw(st.sampled_from(["content", "mask"]))
    padding = (top, right, bottom, left)
    result, network = run(noise(height, width), mask, region, padding)
    content = slice(top, height - bottom), slice(left, width - right)
    hole = mask[content] > 0
    assert (result[content][hole] == FILL).all()
    assert bool(network.calls) == bool(hole.any())
    for size, own in zip(zip(*network.sizes, strict=True), (height, width), strict=False):
        assert all(side in (rounded_up(side), own) for side in size)


@pytest.mark.parametrize("region", ["content", "mask"])
def test_a_picture_without_a_hole_costs_nothing(region):
    result, network = run(noise(300, 200), np.zeros((300, 200), np.uint8), region)
    assert not network.calls
    assert result.flags.writeable


@pytest.mark.parametrize("region", ["content", "mask"])
def test_a_hole_in_the_padding_alone_costs_nothing(region):
    mask = holes(300, 200, (0, 0, 40, 200))
    _, network = run(noise(300, 200), mask, region, (50, 0, 50, 0))
    assert not network.calls


@pytest.mark.parametrize("region", ["full", "content", "mask"])
def test_no_pictures_give_no_results(region):
    assert inpaint(Recorder(), [], [], region, []) == []


@pytest.mark.parametrize("region", ["content", "mask"])
@pytest.mark.parametrize("padding", [(150, 0, 150, 0), (0, 150, 0, 50), (9000, 0, 0, 0), (-1,) * 4])
def test_a_padding_that_leaves_nothing_is_an_error_that_tells_it(region, padding):
    image, mask = noise(300, 200), tiny.box_mask(300, 200)
    with pytest.raises(ValueError, match="leaves nothing of 200×300"):
        inpaint(Recorder(), [image], [mask], region, [padding])


@pytest.mark.parametrize("region", ["full", "content", "mask"])
def test_masks_may_have_a_third_axis_and_grey_values(region):
    image, mask = noise(200, 300), tiny.box_mask(200, 300)
    mask[0, :] = 100
    network = Recorder()
    (flat,) = inpaint(network, [image], [np.where(mask > 100, mask, 0)], region)
    if region != "full":  # there the threshold is the network's own affair
        (result,) = inpaint(network, [image], [mask[..., None]], region, mask_threshold=100)
        assert np.array_equal(result, flat)


@pytest.mark.parametrize("region", ["content", "mask"])
def test_a_result_does_not_depend_on_the_pictures_beside_it(golden_models, region):
    def fill(images, masks):
        return batch_inference(images, masks, golden_models["blocks2-ngf16"], {}, "cpu", False)

    images = [noise(150 + 30 * i, 210, i) for i in range(3)]
    masks = [holes(*image.shape[:2], (20, 20, 40, 90), (110, 150, 140, 200)) for image in images]
    paddings = [(0, 0, 0, 0), (5, 0, 9, 0), (0, 15, 0, 1)]
    together = inpaint(fill, images, masks, region, paddings)
    for index, result in enumerate(together):
        (alone,) = inpaint(fill, [images[index]], [masks[index]], region, [paddings[index]])
        assert np.array_equal(result, alone)


# -- full -----------------------------------------------------------------------------------------


def test_full_hands_everything_on_as_it_came():
    images, masks = [noise(50, 60), noise(70, 80)], [tiny.box_mask(50, 60), tiny.box_mask(70, 80)]
    given = []

    def fill(images, masks):
        given.append((images, masks))
        return ["one", "two"]

    assert inpaint(fill, images, masks) == ["one", "two"]
    assert given == [(images, masks)]


# -- content --------------------------------------------------------------------------------------


def test_content_shows_the_picture_without_its_padding_but_for_a_margin():
    image, mask = noise(1024, 1024), tiny.box_mask(1024, 1024)
    _, network = run(image, mask, "content", (362, 82, 362, 82))
    (size,) = network.sizes
    assert size == (384, 896)  # 300 and 860 with a margin, rounded up
    ((shown, shown_mask),) = network.shown
    top, left = 512 - 192, 512 - 448
    assert np.array_equal(shown, image[top : top + 384, left : left + 896])
    assert np.array_equal(shown_mask > 0, mask[top : top + 384, left : left + 896] > 0)
    assert MARGIN <= (896 - 860) // 2


def test_content_of_many_heights_has_few_sizes():
    sizes = set()
    for height in range(250, 1024, 31):
        spare = 1024 - height
        padding = (spare // 2, 82, spare - spare // 2, 82)
        sizes |= set(run(noise(1024, 1024), tiny.box_mask(1024, 1024), "content", padding)[1].sizes)
    assert len(sizes) <= 10


# -- mask: windows --------------------------------------------------------------------------------


def test_mask_shows_a_hole_with_its_context():
    image, mask = noise(1000, 1200), holes(1000, 1200, (400, 500, 440, 800))
    _, network = run(image, mask, "mask")
    ((_, shown_mask),) = network.shown
    assert shown_mask.shape == (192, 512)  # 40 + 2·64 and 300 + 2·64, rounded up
    rows, columns = np.nonzero(shown_mask)
    assert min(rows.min(), 191 - rows.max(), columns.min(), 511 - columns.max()) >= CONTEXT
    assert shown_mask.sum() // 255 == 40 * 300


@pytest.mark.parametrize(
    "box", [(0, 0, 30, 200), (0, 1100, 40, 1200), (960, 0, 1000, 1200), (500, 0, 501, 1)]
)
def test_a_hole_at_the_pictures_edge_has_a_window_within_the_picture(box):
    image, mask = noise(1000, 1200), holes(1000, 1200, box)
    result, network = run(image, mask, "mask")
    assert (result[mask > 0] == FILL).all()
    assert len(network.shown) == 1
    assert math.prod(network.sizes[0]) < 0.2 * mask.size


def test_windows_that_overlap_are_merged():
    lines = [(100 + 60 * i, 200, 130 + 60 * i, 600) for i in range(5)]
    _, network = run(noise(1000, 1000), holes(1000, 1000, *lines), "mask")
    assert len(network.shown) == 1


def test_windows_far_from_each_other_are_not():
    corners = [(50, 50, 80, 200), (50, 800, 80, 950), (900, 50, 930, 200), (900, 800, 930, 950)]
    _, network = run(noise(1000, 1000), holes(1000, 1000, *corners), "mask")
    assert len(network.shown) == 4
    assert len(network.calls) == 1  # of one size: together


def test_holes_next_to_a_window_are_masked_in_it():
    # An L: merging would cost more than two windows.
    image = noise(1000, 1000)
    mask = holes(1000, 1000, (100, 100, 120, 900), (150, 100, 900, 120))
    _, network = run(image, mask, "mask")
    for shown, shown_mask in network.shown:
        hidden = {tuple(pixel) for pixel in shown[shown_mask > 0]}
        seen = {tuple(pixel) for pixel in shown[shown_mask == 0]}
        assert len(seen) > 1
        assert hidden
    assert sum((m > 0).sum() for _, m in network.shown) > (mask > 0).sum()


def test_windows_of_several_pictures_go_together_by_size():
    network = Recorder()
    images = [noise(1000, 1000, i) for i in range(3)]
    masks = [holes(1000, 1000, (100 + 90 * i, 300, 130 + 90 * i, 500)) for i in range(3)]
    results = inpaint(network, images, masks, "mask")
    assert len(network.calls) == 1
    for image, mask, result in zip(images, masks, results, strict=True):
        check(result, image, mask, NO_PADDING, network)


def test_windows_reach_into_the_padding_only_where_the_content_is_too_small():
    image = noise(1024, 1024)
    mask = holes(1024, 1024, (500, 100, 520, 300))
    _, network = run(image, mask, "mask", (462, 82, 462, 82))  # 100 high
    (size,) = network.sizes
    assert size == (128, 320)


def test_many_tiny_holes_are_all_filled_in_few_windows():
    image, mask = noise(900, 860), np.zeros((900, 860), np.uint8)
    mask[::25, ::25] = 255
    result, network = run(image, mask, "mask")
    assert (result[mask > 0] == FILL).all()
    assert sum(math.prod(size) for size in network.sizes) <= 1.2 * mask.size


def test_more_holes_than_text_has_are_taken_together():
    image, mask = noise(3000, 860), np.zeros((3000, 860), np.uint8)
    mask[::18, ::18] = 255
    assert (mask > 0).sum() > MOST_HOLES
    result, network = run(image, mask, "mask")
    assert (result[mask > 0] == FILL).all()
    assert sum(math.prod(size) for size in network.sizes) <= 1.5 * mask.size


def test_holes_around_each_other_cost_no_more_than_the_whole_picture():
    image, mask = noise(2600, 2600), np.zeros((2600, 2600), np.uint8)
    for inset in range(0, 1200, 40):
        cv2.rectangle(mask, (inset, inset), (2599 - inset, 2599 - inset), 255, 2)
    result, network = run(image, mask, "mask")
    assert (result[mask > 0] == FILL).all()
    assert sum(math.prod(size) for size in network.sizes) <= 1.5 * mask.size


def test_parts_of_a_long_hole_without_a_hole_in_them_are_not_shown():
    image, mask = noise(3000, 3000), np.zeros((3000, 3000), np.uint8)
    cv2.line(mask, (0, 0), (2999, 2999), 255, 3)
    _, network = run(image, mask, "mask")
    assert len(network.shown) < 9


@pytest.mark.parametrize("size", [(40, 50), (1024, 1024), (864, 1504), (1700, 2000)])
def test_a_hole_that_is_the_whole_picture_is_filled(size):
    image, mask = noise(*size), np.full(size, 255, np.uint8)
    result, network = run(image, mask, "mask")
    assert (result == FILL).all()
    assert max(max(size) for size in network.sizes) <= LONGEST_SIDE


def test_the_parts_of_a_long_hole_see_what_was_filled_before():
    image, mask = noise(4000, 300), holes(4000, 300, (100, 100, 3900, 200))
    result, network = run(image, mask, "mask")
    assert (result[mask > 0] == FILL).all()
    assert len(network.calls) == 3
    for shown, shown_mask in network.shown[1:]:
        columns = shown_mask.any(axis=0)
        assert (shown[:CONTEXT, columns] == FILL).all()
        assert not shown_mask[:CONTEXT].any()


def test_a_long_strip_needs_little_more_memory_than_a_window():
    rng = np.random.default_rng(5)
    height, width = 20_000, 860
    image, mask = noise(height, width), np.zeros((height, width), np.uint8)
    for top in range(40, height - 80, 160):
        mask[top : top + 40, rng.integers(0, 200) : rng.integers(400, 860)] = 255
    result, network = run(image, mask, "mask")
    assert (result[mask > 0] == FILL).all()
    assert max(max(size) for size in network.sizes) <= LONGEST_SIDE
    assert len(set(network.sizes)) <= 12
    for call in network.calls:
        pixels = [hole.size for _, hole in call]
        assert len(pixels) == 1 or sum(pixels) <= MOST_AT_ONCE


# -- mask: against full ---------------------------------------------------------------------------


def test_mask_is_close_to_full_on_smooth_grounds():
    torch_model, config = load_lama_model(
        Path("lama-fourier/config.yaml").resolve(),
        Path("lama-fourier/models/best.ckpt").resolve(),
        "cpu",
    )

    def fill(images, masks):
        return batch_inference(images, masks, torch_model, config, "cpu", False)

    y, x = np.mgrid[:384, :384] / 384
    waves = [128 + 60 * np.sin(3 * x + 2 * y), 120 + 50 * np.cos(4 * y), 90 + 70 * x * y]
    image = np.rint(np.stack(waves, -1)).astype(np.uint8)
    mask = holes(384, 384, (180, 150, 200, 230))
    lettered = np.where((mask > 0)[..., None], np.uint8(0), image)
    (full,) = inpaint(fill, [lettered], [mask], "full")
    (windows,) = inpaint(fill, [lettered], [mask], "mask")
    difference = np.abs(full[mask > 0].astype(int) - windows[mask > 0])
    assert difference.mean() < 8
