"""Which pixels are a hole."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from core.pictures.boxes import mask_of_boxes
from core.pictures.errors import PictureError
from core.pictures.masks import as_stored, decode_mask, remarks_on
from tests.bulk.catalogue import content, mask_for, saved

LIMIT = 1 << 20


def hole_of(file: bytes, threshold: int = 0) -> np.ndarray:
    hole, _ = decode_mask(file, LIMIT, threshold)
    return hole


def hole_of_boxes(boxes: Any, size: tuple[int, int]) -> np.ndarray:
    hole, _ = mask_of_boxes(boxes, size)
    return hole


def remarks_of(file: bytes) -> list[str]:
    _, remarks = decode_mask(file, LIMIT, 0)
    return [remark.reason for remark in remarks]


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_a_mask_may_have_any_format(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    mask = mask_for(40, 56)
    assert np.array_equal(hole_of(content(mask, form, **options)), mask > 0)


def test_above_the_threshold_is_a_hole_and_what_is_clear_is_none() -> None:
    grey = np.array([[0, 1, 127, 128, 255]], np.uint8)
    assert hole_of(content(grey)).tolist() == [[False, True, True, True, True]]
    assert hole_of(content(grey), 127).tolist() == [[False, False, False, True, True]]
    clear = np.full((1, 2, 4), 255, np.uint8)
    clear[0, 0, 3] = 0
    assert hole_of(content(clear)).tolist() == [[False, True]]
    deep = np.array([[0, 1, 65535]], np.uint16)
    assert hole_of(content(deep)).tolist() == [[False, True, True]]


def test_boxes_are_filled_and_grown_by_a_pixel() -> None:
    hole = hole_of_boxes([[[10, 5], [19, 5], [19, 9], [10, 9]], [1, 20, 4, 20, 4, 22]], (30, 40))
    wanted = np.zeros((30, 40), bool)
    wanted[4:11, 9:21] = True
    assert np.array_equal(hole[:15], wanted[:15])
    assert hole[20, 3]
    assert not hole[:, 22:].any()


def test_a_box_that_reaches_out_of_the_picture_is_cut() -> None:
    assert hole_of_boxes([[[-50, -50], [900, -50], [900, 900], [-50, 900]]], (30, 40)).all()
    assert not hole_of_boxes([], (30, 40)).any()


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
        hole_of_boxes(boxes, (30, 40))
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
    assert np.array_equal(hole_of(file), mask_for(40, 56) > 0)


def test_soft_black_strokes_are_a_hole_above_the_threshold() -> None:
    rgba = np.zeros((1, 4, 4), np.uint8)
    rgba[0, :, 3] = (0, 1, 127, 255)
    assert hole_of(content(rgba)).tolist() == [[False, True, True, True]]
    assert hole_of(content(rgba), 126).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("alpha", [255, 128])
def test_with_the_same_alpha_everywhere_the_shape_is_in_the_colours(alpha: int) -> None:
    mask = mask_for(40, 56)
    rgba = np.dstack([mask] * 3 + [np.full_like(mask, alpha)])
    assert np.array_equal(hole_of(content(rgba)), mask > 0)
    black = np.dstack([mask * 0] * 3 + [np.full_like(mask, alpha)])
    assert not hole_of(content(black)).any()


def test_black_and_white_with_a_clear_rim_is_read_from_its_colours() -> None:
    mask = mask_for(40, 56)
    alpha = np.full_like(mask, 255)
    alpha[-3:] = 0
    rgba = np.dstack([mask] * 3 + [alpha])
    assert np.array_equal(hole_of(content(rgba)), mask > 0)


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
    assert np.array_equal(hole_of(file), mask_for(40, 56) > 0)


def areas(shape: tuple[int, ...], dtype: Any, dark: Any, bright: Any) -> np.ndarray:
    """40×56 with two areas side by side, which are `mask_for` together."""
    array = np.zeros((40, 56, *shape), dtype)
    array[5:10, 7:20] = dark
    array[5:10, 20:28] = bright
    return array


BOTH = mask_for(40, 56) > 0
DARK = [(0, 0, 3), (1, 0, 0), (0, 1, 0), (1, 1, 1)]


@pytest.mark.parametrize("dark", DARK)
@pytest.mark.parametrize("bright", [(0, 0, 255), (255, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "GIF"])
def test_a_pixel_is_a_hole_if_any_channel_is_above_the_threshold(
    form: str, dark: tuple[int, int, int], bright: tuple[int, int, int]
) -> None:
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    file = content(areas((3,), np.uint8, dark, bright), form, **options)
    assert np.array_equal(hole_of(file), BOTH)


def test_the_highest_channel_is_compared_with_the_threshold() -> None:
    file = content(np.array([[(0, 0, 100), (0, 0, 101), (90, 90, 90)]], np.uint8))
    assert hole_of(file, 100).tolist() == [[False, True, False]]


@pytest.mark.parametrize("dark", DARK)
def test_a_dark_colour_of_a_palette_is_a_hole(dark: tuple[int, int, int]) -> None:
    image = Image.fromarray(areas((), np.uint8, 1, 2), "L")
    image = image.convert("P")
    image.putpalette([0, 0, 0, *dark, 255, 255, 255])
    for form in ("PNG", "GIF", "BMP", "TIFF"):
        assert np.array_equal(hole_of(saved(image, form)), BOTH)


@pytest.mark.parametrize("form", [".png", ".tiff", ".ppm"])
@pytest.mark.parametrize("dark", [(0, 0, 1), (100, 100, 100), (0, 255, 0)])
def test_colours_of_16_bits_are_compared_as_they_are(form: str, dark: Any) -> None:
    array = areas((3,), np.uint16, dark, 65535)
    file = cv2.imencode(form, array)[1].tobytes()
    assert np.array_equal(hole_of(file), BOTH)
    assert np.array_equal(hole_of(file, 128), BOTH & (array.max(axis=2) > 128))


def test_the_alpha_of_16_bits_may_have_the_shape() -> None:
    array = np.zeros((40, 56, 4), np.uint16)
    array[..., 3] = areas((), np.uint16, 100, 65535)
    assert np.array_equal(hole_of(cv2.imencode(".png", array)[1].tobytes()), BOTH)


def test_a_mask_of_16_bits_is_turned_as_it_is_shown() -> None:
    plain = cv2.imencode(".png", areas((3,), np.uint16, 100, 65535))[1].tobytes()
    tags = Image.Exif()
    tags[0x0112] = 6
    tagged = content(mask_for(8, 8), exif=tags)
    begin = tagged.index(b"eXIf") - 4
    length = int.from_bytes(tagged[begin : begin + 4], "big") + 12
    turned = plain[:33] + tagged[begin : begin + length] + plain[33:]
    assert np.array_equal(hole_of(turned), np.rot90(BOTH, -1))


def test_noise_of_a_jpeg_that_is_darker_than_grey_is_no_hole() -> None:
    assert not hole_of(content(areas((3,), np.uint8, (0, 0, 3), (1, 0, 0)), "JPEG")).any()
    blue = hole_of(content(areas((3,), np.uint8, (0, 0, 255), (0, 0, 255)), "JPEG", quality=95))
    assert blue[BOTH].all()
    assert not blue[24:].any()


def test_black_that_is_converted_from_lab_is_no_hole() -> None:
    assert not hole_of(saved(Image.new("LAB", (8, 8), (0, 128, 128)), "TIFF")).any()


@pytest.mark.parametrize("stroke_colour", [(255, 255, 255), (255, 0, 0)])
def test_black_letters_with_a_stroke_are_a_hole_as_a_whole(stroke_colour: Any) -> None:
    file = content(areas((4,), np.uint8, (0, 0, 0, 255), (*stroke_colour, 255)))
    assert np.array_equal(hole_of(file), BOTH)
    assert remarks_of(file) == ["mask_transparent"]


def test_a_coloured_layer_is_a_hole_as_a_whole_without_a_remark() -> None:
    file = content(areas((4,), np.uint8, (0, 255, 0, 255), (255, 0, 0, 255)))
    assert np.array_equal(hole_of(file), BOTH)
    assert not remarks_of(file)


def test_black_on_little_transparent_ground_is_no_hole_but_worth_a_remark() -> None:
    array = areas((4,), np.uint8, (0, 0, 0, 255), (255, 255, 255, 255))
    array[10:, :, 3] = 255
    file = content(array)
    assert np.array_equal(hole_of(file), areas((), bool, False, True))
    (remark,) = decode_mask(file, LIMIT, 0)[1]
    assert remark.reason == "mask_transparent"
    assert "its visible black is not taken for a hole" in remark.text


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP", "AVIF"])
def test_a_mask_of_several_frames_is_refused(form: str) -> None:
    frames = [Image.fromarray(areas((3,), np.uint8, level, level)) for level in (0, 255)]
    with pytest.raises(PictureError, match="its mask: it has several frames or pages") as raised:
        hole_of(saved(frames[0], form, save_all=True, append_images=frames[1:]))
    assert raised.value.reason == "mask_several_frames"


def test_corners_in_another_order_are_filled_like_those_around_the_box() -> None:
    around = [[10, 5], [29, 6], [28, 19], [9, 18]]
    wanted = hole_of_boxes([around], (30, 40))
    for order in itertools.permutations(range(4)):
        assert np.array_equal(hole_of_boxes([[around[n] for n in order]], (30, 40)), wanted)
    rows = [[n, 5] for n in (5, 15, 25)] + [[n, 20] for n in (5, 15, 25)]
    assert hole_of_boxes([rows], (30, 40))[5:21, 5:26].all()


def test_a_polygon_with_a_dent_keeps_it() -> None:
    dented = [[5, 5], [30, 5], [30, 25], [18, 10], [5, 25], [5, 5]]
    assert not hole_of_boxes([dented], (30, 40))[20, 18]


@pytest.mark.parametrize(
    "box",
    [
        [[0.25, 0.5], [0.75, 0.5], [0.75, 0.6], [0.25, 0.6]],
        [0, 0, 1, 0, 1, 1, 0, 1],
        [[-0.01, 0], [1.02, 0], [1.02, 1], [0, 1]],
    ],
)
def test_boxes_that_are_shares_of_the_size_are_refused(box: Any) -> None:
    with pytest.raises(PictureError, match="multiply x by 40 and y by 30") as raised:
        hole_of_boxes([box], (30, 40))
    assert raised.value.reason == "bad_boxes"


def test_a_box_outside_the_picture_is_worth_a_remark() -> None:
    inside, outside = [10, 5, 19, 5, 19, 9], [50, 5, 60, 5, 60, 9]
    hole, (remark,) = mask_of_boxes([inside, outside, [1, -9, 5, -9, 5, -2]], (30, 40))
    assert hole.any()
    assert remark.reason == "box_outside"
    assert "of 3 boxes 2 lie outside the picture, which is 40×30" in remark.text
    assert not mask_of_boxes([inside, [35, 5, 45, 5, 45, 9]], (30, 40))[1]
