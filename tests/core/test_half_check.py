"""`doctor` compares half precision with float32, where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.commands.checks.finding import Level
from core.commands.checks.half_precision import check_half_precision


class _Stub:
    """As much of an inpainter as the check uses; half precision is `off` by so many levels."""

    device = "cuda"
    precision = SimpleNamespace(why="the reason")

    def __init__(self, half: str | None, off: int = 0, overflows: int = 0) -> None:
        self.half, self.half_fallbacks = half, 7
        self._off, self._overflows = off, overflows
        self.shapes: list[tuple[int, ...]] = []

    def infer(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.half_fallbacks += self._overflows
        return self._filled(images, masks, 100 + self._off)

    def infer_exactly(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        return self._filled(images, masks, 100)

    def _filled(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], level: int
    ) -> list[np.ndarray]:
        self.shapes += [mask.shape for mask in masks]
        return [
            np.where(mask[..., None] > 0, np.uint8(level), image)
            for image, mask in zip(images, masks, strict=True)
        ]


def check(inpainter: Any) -> Any:
    return check_half_precision(inpainter)


def test_without_half_precision_nothing_is_computed() -> None:
    stub = _Stub(None)
    found = check(stub)
    assert found.level is Level.OK
    assert found.message == "half precision is not used (the reason)"
    assert stub.shapes == []


@pytest.mark.parametrize(("half", "off"), [("float16", 4), ("bfloat16", 16)])
def test_a_usual_difference_is_fine_and_a_larger_one_a_warning(half: str, off: int) -> None:
    stub = _Stub(half, off)
    fine = check(stub)
    assert fine.level is Level.OK
    assert f"{half} against float32" in fine.message
    assert f"0 of 2 overflowed, the fills differ by at most {off} of 255 levels" in fine.message
    assert stub.shapes == [(1024, 1024)] * 4
    large = check(_Stub(half, off + 1))
    assert large.level is Level.WARNING
    assert f"at most {off + 1} of 255 levels, and {off} are usual at most" in large.message
    assert "USE_FP16=0" in large.remedy


def test_a_fill_that_wraps_around_is_a_large_difference() -> None:
    assert check(_Stub("float16", -100)).level is Level.WARNING


def test_what_overflows_is_a_warning_even_if_the_fills_agree() -> None:
    found = check(_Stub("float16", overflows=1))
    assert found.level is Level.WARNING
    assert "2 of 2 overflowed" in found.message
    assert "computed twice" in found.message


def test_a_device_without_memory_for_both_is_a_warning() -> None:
    stub: Any = _Stub("float16")

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    stub.infer_exactly = fails
    found = check(stub)
    assert found.level is Level.WARNING
    assert "can't be compared with float32 at 1024×1024: out of memory" in found.message


def test_a_cpu_fills_smaller_pictures() -> None:
    stub = _Stub("bfloat16")
    stub.device = "cpu"
    assert "of 256×256" in check(stub).message
    assert stub.shapes == [(256, 256)] * 4
