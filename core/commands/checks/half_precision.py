"""Half precision: how far its fills are from those in float32, on this device with these weights.

White and a busy picture are the extremes: white has the largest numbers, which overflow first, and
a busy picture the largest errors of rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from core.commands.checks.finding import Finding, ok, warning

if TYPE_CHECKING:
    from core.network import Inpainter

#: Pixels of a side. A GPU's float16 overflows first at the lowest frequency, which grows with the
#: side, so it gets a whole canvas. A CPU's bfloat16 has the range of float32, and a canvas takes
#: seconds there.
SIDES: Final = {"cuda": 1024, "cpu": 256}

#: Levels of 255 by which the fills may differ. The included weights differ by at most 1 in float16
#: and by at most 5 in bfloat16, which has three bits fewer. A wrong kernel is off by tens.
LIMITS: Final = {"float16": 4, "bfloat16": 16}

REMEDY: Final = "USE_FP16=0, or other weights"


@dataclass(frozen=True, slots=True)
class Deviation:
    """How half precision did: levels of 255 inside the holes, and pictures that overflowed."""

    levels: int
    overflowed: int
    pictures: int


def check_half_precision(inpainter: Inpainter) -> Finding:
    """Fill two pictures in half precision and in float32; only where half precision is used."""
    half = inpainter.half
    if half is None:
        return ok("model", f"half precision is not used ({inpainter.precision.why})")
    side = SIDES[inpainter.device]
    try:
        found = _deviation(inpainter, side)
    except Exception as error:
        return warning(
            "model",
            f"half precision can't be compared with float32 at {side}×{side}: {error}",
            "if it says memory: stop other programs that use the device",
        )
    text = (
        f"{half} against float32, a white and a busy picture of {side}×{side}: "
        f"{found.overflowed} of {found.pictures} overflowed, the fills differ by at most "
        f"{found.levels} of 255 levels"
    )
    if found.overflowed:
        return warning("model", f"{text}; what overflows is computed twice", REMEDY)
    if found.levels > LIMITS[half]:
        return warning("model", f"{text}, and {LIMITS[half]} are usual at most", REMEDY)
    return ok("model", text)


def _deviation(inpainter: Inpainter, side: int) -> Deviation:
    mask = _text_like(side)
    pictures = np.full((side, side, 3), 255, np.uint8), _busy(side)
    levels, before = 0, inpainter.half_fallbacks
    for picture in pictures:
        (half,) = inpainter.infer([picture], [mask])
        (exact,) = inpainter.infer_exactly([picture], [mask])
        levels = max(levels, int(np.abs(half.astype(np.int16) - exact).max()))
    return Deviation(levels, inpainter.half_fallbacks - before, len(pictures))


def _busy(side: int) -> np.ndarray:
    """Blocks of 8×8 in all colours, with noise on them."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    noise = rng.integers(0, 32, (side, side, 3), np.uint8)
    return np.asarray(blocks.repeat(8, 0).repeat(8, 1) ^ noise)


def _text_like(side: int) -> np.ndarray:
    """uint8 H×W: lines of strokes, as letters are."""
    mask = np.zeros((side, side), np.uint8)
    for top in range(side // 8, side - side // 8, side // 8):
        line = mask[top : top + 24, side // 10 : side - side // 10]
        line[:, ::12] = line[:, 1::12] = line[:, 2::12] = 255
        line[:3] = 255
    return mask
