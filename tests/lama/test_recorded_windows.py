"""Windows around holes are filled by recordings of the sizes and numbers that occur often."""

from __future__ import annotations

import numpy as np
import pytest

from harness import ROOT
from harness.waiting import wait_until
from lama.engine.frequent import OFTEN, Frequent
from lama.inpainter import Inpainter
from tests.lama import tiny

SIZE = 320, 700


@pytest.fixture
def inpainter() -> Inpainter:
    folder = ROOT / "tests/data/golden/blocks2-ngf16"
    made = Inpainter(folder / "config.yaml", folder / "models/best.ckpt", region="mask")
    made.engine._by_windows = False  # what CUDA does, with `run_again` in place of a graph
    return made


def page(holes: int) -> tuple[np.ndarray, np.ndarray]:
    """A page with windows of one size, too far from each other to be merged."""
    mask = np.zeros(SIZE, np.uint8)
    for index in range(holes):
        mask[140:160, 100 + 250 * index : 120 + 250 * index] = 255
    return tiny.picture(*SIZE, seed=holes), mask


def test_they_give_the_pixels_that_they_gave_without_recordings(inpainter: Inpainter) -> None:
    pages = [page(3)]
    (expected,) = inpainter.fill(*zip(*pages, strict=True))
    waiting: list = []
    inpainter._frequent = Frequent(inpainter.engine.prepare, waiting.append)
    for _ in range(OFTEN):
        (found,) = inpainter.fill(*zip(*pages, strict=True))
        assert np.array_equal(found, expected)
    recorded = inpainter.engine._painter.recorded
    assert not recorded
    waiting.pop()()
    assert sorted(size[0] for size in recorded) == [1, 2]
    asked = []
    infer = inpainter.infer
    inpainter.infer = lambda images, masks: (asked.append(len(images)), infer(images, masks))[1]
    (found,) = inpainter.fill(*zip(*pages, strict=True))
    assert asked == [2, 1]
    assert np.array_equal(found, expected)


def test_a_gpu_counts_and_stages_windows_unless_large_holes_are_refined(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready: list = []
    monkeypatch.setattr(inpainter, "get_ready", ready.append)
    inpainter.prepare([(1, *SIZE)])
    assert inpainter._frequent is None
    engine = inpainter.engine
    monkeypatch.setattr(Inpainter, "engine", engine)
    inpainter.device = "cuda"
    inpainter._refiner = object()
    inpainter.prepare([(1, *SIZE)])
    assert inpainter._frequent is None
    assert ready == []
    inpainter._refiner = None
    inpainter.prepare([(1, *SIZE)])
    assert inpainter._frequent is not None
    wait_until(lambda: ready == [[(1, *SIZE)]], "it gets ready")
