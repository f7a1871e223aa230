"""Holes in a plane of colour are filled without the network."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lama.regions.planes import RING
from tests.lama.shown import FILL, holes, noise, run


def ramp(height, width):
    """A plane of colour, another slope in each channel, rounded."""
    y, x = np.mgrid[:height, :width]
    planes = [40 + 0.11 * y + 0.05 * x, 200 - 0.2 * x, np.full((height, width), 90)]
    return np.rint(np.stack(planes, -1)).astype(np.uint8)


@pytest.mark.parametrize(
    "box",
    [(200, 200, 240, 500), (0, 0, 40, 100), (380, 300, 400, 600), (100, 0, 130, 600)],
    ids=["inside", "corner", "corner below", "edge to edge"],
)
def test_a_hole_in_a_plane_of_colour_is_filled_without_the_network(box):
    clean, mask = ramp(400, 600), holes(400, 600, box)
    lettered = np.where((mask > 0)[..., None], noise(400, 600), clean)
    result, network = run(lettered, mask, "mask")
    assert not network.calls
    assert np.abs(result.astype(int) - clean).max() <= 1


def test_a_ground_within_two_levels_of_a_plane_is_one():
    clean = ramp(400, 600)
    grain = np.random.default_rng(0).integers(-1, 2, clean.shape)
    image = (clean + grain).astype(np.uint8)
    result, network = run(image, holes(400, 600, (200, 200, 240, 500)), "mask")
    assert not network.calls
    assert np.abs(result.astype(int) - clean).max() <= 1 + 1


@pytest.mark.parametrize("distance", [1, RING])
def test_anything_else_in_the_ring_calls_the_network(distance):
    image, mask = ramp(400, 600), holes(400, 600, (200, 200, 240, 500))
    image[240 + distance - 1, 350] += 10
    result, network = run(image, mask, "mask")
    assert network.calls
    assert (result[mask > 0] == FILL).all()


def test_what_is_beyond_the_ring_does_not():
    image, mask = ramp(400, 600), holes(400, 600, (200, 200, 240, 500))
    image[240 + RING :] = noise(152, 600)
    image[:, : 200 - RING] = noise(400, 192)
    assert not run(image, mask, "mask")[1].calls


def test_a_texture_is_no_plane():
    image, mask = ramp(400, 600), holes(400, 600, (200, 200, 240, 500))
    image[::2] += 6
    assert run(image, mask, "mask")[1].calls


def test_a_large_ring_is_looked_at_everywhere():
    image, mask = ramp(1200, 900), holes(1200, 900, (100, 100, 1100, 800))
    assert not run(image, mask, "mask")[1].calls
    image[50:100, 451] += 10
    assert run(image, mask, "mask")[1].calls


def test_a_ring_on_one_side_only_is_not_carried_on():
    image, mask = ramp(400, 600), holes(400, 600, (0, 0, 400, 560))
    assert run(image, mask, "mask")[1].calls


def test_two_holes_in_two_planes_are_filled_each_with_its_own():
    image = np.zeros((400, 600, 3), np.uint8)
    image[200:] = (10, 200, 30)
    mask = holes(400, 600, (100, 100, 130, 500), (300, 100, 330, 500))
    lettered = np.where((mask > 0)[..., None], np.uint8(77), image)
    result, network = run(lettered, mask, "mask")
    assert not network.calls
    assert np.array_equal(result, image)


def test_a_plane_next_to_a_texture_is_ground_for_the_network():
    image = ramp(400, 600)
    image[200:] = noise(200, 600)
    mask = holes(400, 600, (150, 100, 180, 500), (220, 100, 250, 500))
    clean = image.copy()
    image[mask > 0] = 255
    result, network = run(image, mask, "mask")
    assert np.abs(result[:200].astype(int) - clean[:200]).max() <= 1
    ((_, shown_mask),) = network.shown
    assert (shown_mask > 0).sum() == 30 * 400  # the other hole is no hole any more


def test_the_edge_of_the_padding_is_the_edge_of_the_picture():
    # A plane in the content, whose mirror image beyond its edge has a bend.
    clean = ramp(200, 600)
    padded = cv2.copyMakeBorder(clean, 100, 100, 0, 0, cv2.BORDER_REFLECT_101)
    mask = cv2.copyMakeBorder(
        holes(200, 600, (0, 100, 40, 500)), 100, 100, 0, 0, cv2.BORDER_REFLECT_101
    )
    result, network = run(padded, mask, "mask", (100, 0, 100, 0))
    assert not network.calls
    assert np.abs(result[100:300].astype(int) - clean).max() <= 1
