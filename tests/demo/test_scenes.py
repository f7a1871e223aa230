"""Scenes: text on clean pictures, and masks that cover it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from core.contract import CANVAS
from core.keys import Kind
from demo.lettering import Line, MaskStyle, letter, paragraph
from demo.scenes import SCENES, Scene, all_scenes, build
from harness.samples import SAMPLES


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return all_scenes()


def grey(height: int = 120, width: int = 400) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_scenes_are_the_same_every_time(scenes: list[Scene]) -> None:
    for first, second in zip(scenes, all_scenes(), strict=True):
        assert first.name == second.name
        for one, other in (
            (first.clean, second.clean),
            (first.before, second.before),
            (first.mask, second.mask),
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("style", MaskStyle)
@pytest.mark.parametrize("name", SCENES)
def test_the_mask_covers_every_pixel_that_the_text_changed(name: str, style: MaskStyle) -> None:
    scene = build(name, style, SCENES[name][1])
    changed = (scene.before != scene.clean).any(axis=2)
    assert changed.any()
    assert (scene.mask[changed] == 255).all()


def test_picture_and_mask_of_a_scene_fit_together(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.clean.shape == scene.before.shape == (*scene.mask.shape, 3)
        assert scene.clean.dtype == scene.before.dtype == scene.mask.dtype == np.uint8
        assert set(np.unique(scene.mask)) == {0, 255}


def test_holes_take_as_much_of_a_scene_as_of_a_real_page(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 0.05 < (scene.mask > 0).mean() < 0.16, scene.name


def test_the_scenes_use_both_queues_both_mask_styles_and_every_sample(
    scenes: list[Scene],
) -> None:
    assert {scene.kind for scene in scenes} == set(Kind)
    assert {scene.style for scene in scenes} == set(MaskStyle)
    assert {path.stem for path in SAMPLES.glob("*.jpg")} <= {scene.name for scene in scenes}


def test_some_scenes_are_shrunk_for_the_network_and_others_are_not(scenes: list[Scene]) -> None:
    shrunk = {scene.name for scene in scenes if scene.mask.shape > CANVAS[scene.kind]}
    assert {"shoes", "shirt"} <= shrunk
    assert "coffee" not in shrunk


def test_the_fonts_have_every_character_that_the_scenes_use() -> None:
    used = {
        (line.font, character)
        for _, layout in SCENES.values()
        for line in layout()[1]
        for character in line.text
        if not character.isspace()
    }

    def drawn(font: str, character: str) -> bytes:
        canvas = np.zeros((60, 60), np.uint8)
        cv2.putText(canvas, character, (10, 45), (255,), cv2.FontFace(font), 32, 400)
        return canvas.tobytes()

    # OpenCV draws a question mark for what it does not have.
    unknown = {drawn(font, "?") for font in ("sans", "italic", "uni")}
    assert {character for font, character in used if drawn(font, character) in unknown} == set()


def test_the_box_of_a_level_line_is_its_ink_grown_by_one_pixel() -> None:
    clean = grey()
    line = Line("Level", (40, 80), 40)
    before, mask = letter(clean, [line], MaskStyle.BOXES, np.random.default_rng(0))
    changed = (before != clean).any(axis=2).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(changed)
    expected = np.zeros_like(mask)
    expected[y - 1 : y + height + 1, x - 1 : x + width + 1] = 255
    np.testing.assert_array_equal(mask, expected)


def test_the_box_of_a_tilted_line_is_tilted_with_it() -> None:
    line = Line("A long tilted line", (20, 100), 30, tilt=8)
    _, mask = letter(grey(200), [line], MaskStyle.BOXES, np.random.default_rng(5))
    box = cv2.boundingRect(mask)
    assert (mask > 0).sum() < 0.7 * box[2] * box[3]


def test_a_glyph_mask_leaves_room_between_the_words() -> None:
    line = Line("two words", (20, 80), 40)
    _, boxes = letter(grey(), [line], MaskStyle.BOXES, np.random.default_rng(0))
    _, glyphs = letter(grey(), [line], MaskStyle.GLYPHS, np.random.default_rng(0))
    assert (glyphs > 0).sum() < (boxes > 0).sum()


@pytest.mark.parametrize("look", [{"outline": (255, 255, 255)}, {"shadow": True}])
def test_outline_and_shadow_are_text_too(look: dict[str, object]) -> None:
    plain = Line("Text", (40, 80), 48)
    rich = Line("Text", (40, 80), 48, **look)  # type: ignore[arg-type]
    _, small = letter(grey(), [plain], MaskStyle.GLYPHS, np.random.default_rng(0))
    _, large = letter(grey(), [rich], MaskStyle.GLYPHS, np.random.default_rng(0))
    assert (large[small > 0] == 255).all()
    assert (large > 0).sum() > (small > 0).sum()


def test_a_line_that_does_not_fit_is_refused_by_name() -> None:
    line = Line("far too long for this", (300, 80), 60)
    with pytest.raises(ValueError, match=r"far too long for this.*does not fit"):
        letter(grey(), [line], MaskStyle.BOXES, np.random.default_rng(0))


def test_a_paragraph_goes_down_line_by_line_in_the_same_look() -> None:
    first, second = paragraph(Line("one", (10, 50), 20, weight=700), "two", spacing=1.5)
    assert (second.text, second.at, second.weight) == ("two", (10, 80), 700)
    assert first.text == "one"
