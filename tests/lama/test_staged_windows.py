"""Batches with few holes, of which a device decodes windows only, give what others give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lama.engine import gathered, painter
from lama.engine.engine import Engine
from lama.engine.folding import fold
from lama.engine.frequent import OFTEN
from lama.engine.fused import FusedNetwork
from lama.engine.kernels import Kernels
from lama.engine.painter import Painter
from lama.inference import engine_of
from lama.saicinpainting.training.trainers import InpaintingModel
from lama.staged import StagedInference
from tests.lama import tiny
from tests.lama.late_device import LateDevice

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SIZE = 256, 192
CPU = torch.device("cpu")


@pytest.fixture
def model() -> InpaintingModel:
    return tiny.tiny_model()


@pytest.fixture
def engine(model: InpaintingModel, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The model's engine, made to do what a GPU does, and with fewer windows."""
    monkeypatch.setattr(gathered, "COUNTS", (2, 4, 8))
    monkeypatch.setattr(painter, "COUNTS", (2, 4, 8))
    made = engine_of(model, "cpu", torch.float32)
    made._by_windows = False
    made.network = FusedNetwork(fold(model.generator), CPU, torch.float32, Kernels())
    made._painter = Painter(made.network, CPU, made.turns)
    made._painter.seconds = FirstIsFaster()
    return made


class FirstIsFaster:
    """Measures: of two ways the first takes less time, or more."""

    def __init__(self, faster: bool = True) -> None:
        self._times = [1.0, 2.0] if faster else [2.0, 1.9]
        self.runs: list = []

    def __call__(self, run) -> float:
        run()
        self.runs.append(run)
        return self._times[(len(self.runs) - 1) % 2]


def page(seed: int, *places: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros(SIZE, np.uint8)
    for top, left in places:
        mask[top : top + 20, left : left + 20] = 255
    return tiny.picture(*SIZE, seed), mask


def launch(inference: StagedInference, pages) -> list:
    there = [inference.stage(*one, (0, 0, 0, 0), SIZE) for one in pages]
    return inference.fill(there)


def counts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the network is asked to decode from now on."""
    asked: list[int] = []
    paint = engine.network.paint

    def watched(pixels, windows=0):
        asked.append(windows)
        return paint(pixels, windows)

    monkeypatch.setattr(engine.network, "paint", watched)
    return asked


def test_what_was_recorded_for_few_holes_fills_few_holes_only(
    model, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = StagedInference(model, "cpu", False, 0, 2, SIZE[0] * SIZE[1], LateDevice())
    few = [page(1, (100, 70)), page(2, (200, 130), (64, 64))]
    many = [page(3, *((y, x) for y in range(0, 230, 40) for x in range(0, 170, 40)))] * 2
    wanted = [[one.result() for one in launch(inference, kind)] for kind in (few, many)]
    engine.prepare(2, *SIZE, 4)
    assert list(engine._painter.recorded) == [(2, *SIZE, 0), (2, *SIZE, 4)]
    asked = counts(engine, monkeypatch)
    started = [launch(inference, kind) for kind in (few, many, few)]
    assert asked == [4, 0, 4]
    for results, pictures in zip(started, [*wanted, wanted[0]], strict=True):
        for result, one in zip(results, pictures, strict=True):
            assert np.array_equal(result.result(), one)


def test_batches_of_few_holes_that_occur_often_are_recorded(model, engine: Engine) -> None:
    inference = StagedInference(model, "cpu", False, 0, 2, SIZE[0] * SIZE[1], LateDevice())
    waiting: list = []
    inference._frequent._start = waiting.append
    few, many = page(1, (100, 70)), page(3, *((y, x) for y in range(0, 230, 40) for x in (0, 150)))
    for _ in range(OFTEN):
        launch(inference, [few])
        launch(inference, [many])
    (work,) = waiting
    work()
    assert list(engine._painter.recorded) == [(1, *SIZE, 0), (1, *SIZE, 2)]


def test_what_is_not_faster_is_not_kept(model, engine: Engine, monkeypatch) -> None:
    engine._painter.seconds = measured = FirstIsFaster(False)
    engine.prepare(2, *SIZE, 4)
    assert [run.args[1] for run in measured.runs] == [4, 0]
    assert list(engine._painter.recorded) == [(2, *SIZE, 0)]
    asked = counts(engine, monkeypatch)
    inference = StagedInference(model, "cpu", False, 0, 2, SIZE[0] * SIZE[1], LateDevice())
    launch(inference, [page(1, (100, 70))] * 2)
    assert asked == [0]


def test_a_network_without_kernels_of_its_own_decodes_everything(model) -> None:
    assert engine_of(model, "cpu", torch.float32).windows(1, 4, 1024, 1024) == 0


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_gpu_decodes_windows_as_it_decodes_everything(dtype: torch.dtype, caplog) -> None:
    engine = engine_of(tiny.tiny_model(ngf=16).cuda(), "cuda", dtype)
    engine._painter.seconds = FirstIsFaster()
    engine.prepare(4, 512, 512, 64)
    assert "no CUDA graph" not in caplog.text
    assert (4, 512, 512, 64) in engine._painter.recorded
    pixels = torch.randint(0, 256, (4, 512, 512, 4), dtype=torch.uint8, device="cuda")
    pixels[..., 3] = 0
    pixels[:, 100:130, 50:380, 3] = pixels[2, -5:, -5:, 3] = 255
    everything = [tensor.clone() for tensor in engine.paint(pixels)]
    windows = engine.paint(pixels, 64)
    assert torch.equal(windows[1], everything[1])
    assert int((windows[0].int() - everything[0].int()).abs().max()) <= 1
