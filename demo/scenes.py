"""The demo's scenes: a clean picture, the same with text on it, and the mask of that text."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from core.client import suitable_kind
from core.keys import Kind
from demo.lettering import BLACK, WHITE, Line, MaskStyle, Picture, letter, paragraph
from demo.pages import product_page, size_table
from harness.samples import SAMPLES, read_sample

Layout = Callable[[], tuple[Picture, list[Line]]]


@dataclass(frozen=True, slots=True)
class Scene:
    """One job of the demo.

    `clean` and `before` (with the text) are H×W×3 BGR uint8, `mask` is H×W uint8, 0 or 255.
    Every pixel in which `clean` and `before` differ is in the mask.
    """

    name: str
    kind: Kind
    style: MaskStyle
    clean: Picture
    before: Picture
    mask: Picture


def all_scenes() -> list[Scene]:
    """Every scene, always the same down to the last pixel.

    Raises SampleMissing if a sample picture cannot be read.
    """
    return [build(name, style, layout) for name, (style, layout) in SCENES.items()]


def build(name: str, style: MaskStyle, layout: Layout) -> Scene:
    """The scene of a layout, on the queue whose canvas shrinks its picture least."""
    clean, lines = layout()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    before, mask = letter(clean, lines, style, rng)
    return Scene(name, suitable_kind(*clean.shape[:2]), style, clean, before, mask)


def _shoes() -> tuple[Picture, list[Line]]:
    """A product on white, 1280×1280: shrunk for the network."""
    return _sample("shoes.jpg"), [
        Line("CANVAS SLIP-ON", (640, 190), 104, weight=800, align="center"),
        Line("가볍고 편안한 데일리 슈즈", (640, 280), 54, (90, 90, 90), align="center"),
        Line("NEW", (950, 470), 84, (40, 40, 220), 900, "italic", tilt=9),
        Line("handmade · 纯手工", (740, 830), 46, (160, 90, 20), align="center", tilt=4),
        Line("vegan canvas, 240 g a shoe", (640, 1140), 48, align="center"),
        Line("39,000원", (640, 1220), 60, (40, 40, 200), align="center"),
    ]


def _jeans() -> tuple[Picture, list[Line]]:
    """A photograph full of texture, 960×1280, with text all over it."""
    return _sample("jeans.jpg"), [
        Line("RIPPED STRAIGHT", (480, 150), 84, WHITE, 900, align="center", shadow=True),
        Line("빈티지 워싱 데님", (70, 560), 60, WHITE, shadow=True, tilt=4),
        *paragraph(Line("High waist,", (650, 700), 44, WHITE, 600, outline=BLACK), "easy fit"),
        Line("破洞牛仔裤", (60, 900), 62, (80, 230, 255), outline=BLACK, tilt=6),
        Line("100 % cotton · wash cold", (480, 1235), 46, WHITE, 600, align="center", shadow=True),
    ]


def _shirt() -> tuple[Picture, list[Line]]:
    """Plain fabric before a blurred street, 960×1280."""
    return _sample("shirt.jpg"), [
        Line("ORGANIC", (480, 430), 110, (60, 60, 60), 900, align="center"),
        Line("COTTON TEE", (480, 540), 80, (60, 60, 60), 300, align="center"),
        Line("유기농 면 100 %", (480, 660), 58, (70, 110, 30), align="center"),
        *paragraph(
            Line("기계 세탁 30 °C", (480, 1010), 42, BLACK, align="center"), "Do not tumble dry"
        ),
        Line("S · M · L · XL", (480, 1230), 60, WHITE, 700, align="center", shadow=True),
    ]


def _shelf() -> tuple[Picture, list[Line]]:
    """A wide banner, 1280×361, with a grid of wires to be continued behind the text."""
    return _sample("shelf.jpg"), [
        Line("HOME & LIVING", (760, 92), 70, (60, 60, 60), 800, align="center"),
        Line("따뜻한 공간을 위한 소품", (820, 165), 40, (40, 70, 150), align="center"),
        Line("up to 40 % off", (1120, 300), 38, (30, 30, 200), 700, "italic", "center", tilt=5),
        Line("收纳 · 香薰 · 绿植", (60, 340), 30, (70, 70, 70)),
    ]


def _nebula() -> tuple[Picture, list[Line]]:
    """Gradients without an edge to hold on to, 1280×615."""
    return _sample("nebula.jpg"), [
        Line("BEYOND THE STARS", (640, 150), 76, WHITE, 900, align="center", outline=(90, 30, 30)),
        Line(
            "星空投影灯 · 卧室氛围灯", (640, 235), 46, (190, 240, 255), align="center", shadow=True
        ),
        Line("우주를 방 안에 담다", (660, 390), 42, WHITE, align="center", shadow=True),
        *paragraph(Line("16 scenes, USB-C,", (800, 510), 36, WHITE, 500, "italic"), "silent fan"),
    ]


def _coffee() -> tuple[Picture, list[Line]]:
    """A small picture with coarse grain, 600×400: far smaller than its canvas."""
    return _sample("coffee.jpg"), [
        Line("오늘의 커피", (28, 70), 46, WHITE, shadow=True, tilt=3),
        Line("Freshly roasted", (572, 372), 38, (200, 235, 255), 700, "italic", "right", BLACK),
        Line("每日现磨", (455, 60), 32, WHITE, outline=BLACK),
    ]


SCENES: Final[dict[str, tuple[MaskStyle, Layout]]] = {
    "shoes": (MaskStyle.BOXES, _shoes),
    "shelf": (MaskStyle.BOXES, _shelf),
    "shirt": (MaskStyle.GLYPHS, _shirt),
    "nebula": (MaskStyle.GLYPHS, _nebula),
    "jeans": (MaskStyle.BOXES, _jeans),
    "coffee": (MaskStyle.GLYPHS, _coffee),
    "page": (MaskStyle.BOXES, product_page),
    "sizes": (MaskStyle.BOXES, size_table),
}


def _sample(file: str) -> Picture:
    return read_sample(SAMPLES / file)
