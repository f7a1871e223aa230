"""Which pixels are a hole."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from core.pictures.errors import PictureError
from core.pictures.masks import as_stored, decode_mask, mask_of_boxes, remarks_on
from tests.bulk.catalogue import content, mask_for, saved

LIMIT = 1 << 20


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_a_mask_may_have_any_format(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    mask = mask_for(40, 56)
    assert np.array_equal(decode_mask(content(mask, form, **options), LIMIT, 0), mask > 0)


def test_above_the_threshold_is_a_hole_and_what_is_clear_is_none() -> None:
    grey = np.array([[0, 1, 127, 128, 255]], np.uint8)
    assert decode_mask(content(grey), LIMIT, 0).tolist() == [[False, True, True, True, True]]
    assert decode_mask(content(grey), LIMIT, 127).tolist() == [[False, False, False, True, True]]
    clear = np.full((1, 2, 4), 255, np.uint8)
    clear[0, 0, 3] = 0
    assert decode_mask(content(clear), LIMIT, 0).tolist() == [[False, True]]
    deep = np.array([[0, 1, 65535]], np.uint16)
    assert decode_mask(content(deep), LIMIT, 0).tolist() == [[False, True, True]]


def test_boxes_are_filled_and_grown_by_a_pixel() -> None:
    hole = mask_of_boxes([[[10, 5], [19, 5], [19, 9], [10, 9]], [1, 20, 4, 20, 4, 22]], (30, 40))
    wanted = np.zeros((30, 40), bool)
    wanted[4:11, 9:21] = True
    assert np.array_equal(hole[:15], wanted[:15])
    assert hole[20, 3]
    assert not hole[:, 22:].any()


def test_a_box_that_reaches_out_of_the_picture_is_cut() -> None:
    assert mask_of_boxes([[[-50, -50], [900, -50], [900, 900], [-50, 900]]], (30, 40)).all()
    assert not mask_of_boxes([], (30, 40)).any()


@pytest.mark.parametrize(
    "boxes",
    [
        7,
        "text",
        [7],
        [[1, 2, 3, 4]],
        [[[1, 2], [3, 4]]],
        [[[1, 2], [3, 4], ["a", 5]]],
        [[[1, 2], [3, float("nan")], [5, 5]]],
        [[[1, 2], [3, 1e12], [5, 5]]],
        [[[1], [2, 3]]],
    ],
)
def test_boxes_of_another_form_are_refused(boxes: object) -> None:
    with pytest.raises(PictureError) as raised:
        mask_of_boxes(boxes, (30, 40))
    assert raised.value.reason == "bad_boxes"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_what_is_seen_is_turned_like_the_stored_picture(orientation: int) -> None:
    stored = mask_for(40, 56)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    seen = np.array(ImageOps.exif_transpose(image))
    assert np.array_equal(as_stored(seen > 0, orientation, (40, 56)), stored > 0)


def test_a_mask_that_fits_the_stored_picture_only_is_its() -> None:
    stored = mask_for(40, 56) > 0
    assert np.array_equal(as_stored(stored, 6, (40, 56)), stored)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(PictureError, match=r"56×41.*56×40") as raised:
        as_stored(np.zeros((41, 56), bool), 1, (40, 56))
    assert raised.value.reason == "mask_size"


def stroke(mode: str, form: str, ground: tuple[int, int, int], ink: tuple[int, int, int]) -> bytes:
    """An editor's layer: strokes of `ink`, elsewhere transparent and of the colour `ground`."""
    mask = mask_for(40, 56)
    rgba = np.full((40, 56, 4), (*ground, 0), np.uint8)
    rgba[mask > 0] = (*ink, 255)
    image = Image.fromarray(rgba)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    if mode == "P":
        image = image.quantize(4)
    elif mode != "RGBA":
        image = image.convert(mode)
    return saved(image, form, **options)


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (200, 0, 30)])
@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "GIF"),
        ("RGBA", "WEBP"),
        ("RGBA", "TIFF"),
    ],
)
def test_a_shape_that_is_only_in_alpha_is_found(
    mode: str, form: str, ground: tuple[int, int, int], ink: tuple[int, int, int]
) -> None:
    file = stroke(mode, form, ground, ink)
    assert np.array_equal(decode_mask(file, LIMIT, 0), mask_for(40, 56) > 0)


def test_soft_black_strokes_are_a_hole_above_the_threshold() -> None:
    rgba = np.zeros((1, 4, 4), np.uint8)
    rgba[0, :, 3] = (0, 1, 127, 255)
    assert decode_mask(content(rgba), LIMIT, 0).tolist() == [[False, True, True, True]]
    assert decode_mask(content(rgba), LIMIT, 126).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("alpha", [255, 128])
def test_with_the_same_alpha_everywhere_the_shape_is_in_the_colours(alpha: int) -> None:
    mask = mask_for(40, 56)
    rgba = np.dstack([mask] * 3 + [np.full_like(mask, alpha)])
    assert np.array_equal(decode_mask(content(rgba), LIMIT, 0), mask > 0)
    black = np.dstack([mask * 0] * 3 + [np.full_like(mask, alpha)])
    assert not decode_mask(content(black), LIMIT, 0).any()


def test_black_and_white_with_a_clear_rim_is_read_from_its_colours() -> None:
    mask = mask_for(40, 56)
    alpha = np.full_like(mask, 255)
    alpha[-3:] = 0
    rgba = np.dstack([mask] * 3 + [alpha])
    assert np.array_equal(decode_mask(content(rgba), LIMIT, 0), mask > 0)


def test_a_hole_that_is_hardly_meant_is_worth_a_remark() -> None:
    mask = mask_for(40, 56) > 0
    assert not remarks_on(mask)
    assert [remark.reason for remark in remarks_on(mask & False)] == ["no_hole"]
    (remark,) = remarks_on(~mask)
    assert remark.reason == "mostly_hole"
    assert "is its mask inverted?" in remark.text


def test_a_mask_with_a_long_text_is_read() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (2 << 20))
    file = content(mask_for(40, 56), pnginfo=info)
    assert np.array_equal(decode_mask(file, LIMIT, 0), mask_for(40, 56) > 0)
