"""Product pages without a file: drawn in flat colours, 860 pixels wide, as shops' pages are.

Each function returns the clean page (H×W×3 BGR uint8) and the lines of text that belong on it.
"""

from __future__ import annotations

import cv2
import numpy as np

from demo.lettering import BLACK, WHITE, Color, Line, Picture, paragraph

WIDTH = 860
GREY: Color = (110, 110, 110)
PALE: Color = (240, 240, 240)
RULE: Color = (190, 190, 190)
INK_BLUE: Color = (92, 52, 28)
SAND: Color = (196, 214, 230)


def product_page() -> tuple[Picture, list[Line]]:
    """A black banner, a product with captions on white, a coloured and a grey banner."""
    page = _blank(1180)
    _band(page, 0, 250, BLACK)
    _band(page, 760, 950, INK_BLUE)
    _band(page, 950, 1180, PALE)
    _bottle(page, center_x=430, top=290)
    for center_x in (160, 430, 700):
        cv2.circle(page, (center_x, 1030), 44, WHITE, -1, cv2.LINE_AA)
        cv2.circle(page, (center_x, 1030), 44, RULE, 2, cv2.LINE_AA)
        cv2.line(page, (center_x - 16, 1030), (center_x + 16, 1030), INK_BLUE, 5, cv2.LINE_AA)
        cv2.line(page, (center_x, 1014), (center_x, 1046), INK_BLUE, 5, cv2.LINE_AA)
    lines = [
        Line("매일 가볍게, 하루 종일 시원하게", (430, 82), 30, SAND, align="center"),
        Line("THERMO BOTTLE", (430, 158), 68, WHITE, weight=800, align="center"),
        Line("Double wall · 500 ml · 保温杯", (430, 212), 28, WHITE, align="center"),
        *paragraph(Line("24시간 보냉", (60, 420), 30, weight=600), "12시간 보온"),
        *paragraph(Line("Stainless steel,", (60, 560), 22, GREY), "free of BPA"),
        *paragraph(Line("한 손에 잡히는", (800, 420), 30, align="right"), "슬림한 디자인"),
        *paragraph(Line("Only 260 g,", (800, 560), 22, GREY, align="right"), "fits every bag"),
        Line("지금 구매하면 파우치 증정", (430, 845), 40, WHITE, align="center"),
        Line("Offer ends on 31 August", (430, 905), 24, SAND, font="italic", align="center"),
    ]
    captions = ("식기세척기 가능", "누수 방지", "2년 보증")
    for center_x, caption in zip((160, 430, 700), captions, strict=True):
        lines.append(Line(caption, (center_x, 1125), 26, align="center"))
    return page, lines


def size_table() -> tuple[Picture, list[Line]]:
    """A headline and a ruled table of sizes, with a note below."""
    rows = (
        ("사이즈", "어깨", "가슴", "소매", "총장"),
        ("S (90)", "44", "98", "21", "67"),
        ("M (95)", "46", "104", "22", "69"),
        ("L (100)", "48", "110", "23", "71"),
        ("XL (105)", "50", "116", "24", "73"),
        ("2XL (110)", "52", "122", "25", "75"),
    )
    left, right, top, row_height = 50, 810, 190, 68
    column_width = (right - left) // len(rows[0])
    bottom = top + row_height * len(rows)
    page = _blank(720)
    _band(page, 0, 140, PALE)
    cv2.rectangle(page, (left, top), (right, top + row_height), SAND, -1)
    for number in range(len(rows) + 1):
        y = top + number * row_height
        cv2.line(page, (left, y), (right, y), RULE, 2 if number < 2 else 1)
    for number in range(len(rows[0]) + 1):
        x = left + number * column_width
        cv2.line(page, (x, top), (x, bottom), RULE, 1)
    lines = [
        Line("SIZE GUIDE", (430, 72), 46, weight=800, align="center"),
        Line("상세 사이즈 · 尺码表 (cm)", (430, 116), 26, GREY, align="center"),
        Line("측정 방법에 따라 1–3 cm의 오차가 있을 수 있습니다.", (50, 650), 22, GREY),
        Line("Measured flat; colours may differ on your screen.", (50, 688), 20, GREY),
    ]
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            x = left + column * column_width + column_width // 2
            y = top + row * row_height + 44
            lines.append(Line(cell, (x, y), 24, BLACK if row else INK_BLUE, 500, align="center"))
    return page, lines


def _blank(height: int) -> Picture:
    return np.full((height, WIDTH, 3), 255, np.uint8)


def _band(page: Picture, top: int, bottom: int, color: Color) -> None:
    page[top:bottom] = color


def _bottle(page: Picture, center_x: int, top: int) -> None:
    """A bottle with a shaded body and a soft shadow, 430 pixels high."""
    shadow = np.zeros(page.shape[:2], np.uint8)
    cv2.ellipse(shadow, (center_x, top + 428), (110, 12), 0, 0, 360, (150,), -1)
    opacity = cv2.GaussianBlur(shadow, (0, 0), 8)[..., None] / np.float32(255)
    page[:] = np.rint(page * (1 - opacity) + np.array(GREY, np.float32) * opacity)
    half = 78
    across = np.linspace(-1, 1, 2 * half, dtype=np.float32)
    light = 0.55 + 0.45 * np.exp(-(((across + 0.35) / 0.4) ** 2))
    body = np.rint(np.array([150, 120, 40], np.float32) * light[:, None] + 60)
    page[top + 90 : top + 420, center_x - half : center_x + half] = body.astype(np.uint8)
    cap = np.rint(np.array([70, 70, 70], np.float32) * light[half - 48 : half + 48, None] + 20)
    page[top : top + 84, center_x - 48 : center_x + 48] = cap.astype(np.uint8)
