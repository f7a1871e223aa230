"""What a device, its libraries or its size can do to the engine."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch

from harness.waiting import wait_until
from lama.engine import engine as engines
from lama.engine import fourier, nvrtc
from lama.engine.engine import MOST_OVERFLOWED, Engine
from lama.engine.folding import fold
from lama.engine.fused import FusedNetwork
from lama.engine.kernels import Kernels
from lama.engine.painter import Painter
from lama.engine.turns import Turns
from tests.lama import tiny
from tests.lama.emulated import as_on_a_gpu, needs_compiler
from tests.lama.test_half_precision import overflowing_model

CPU = torch.device("cpu")


def test_what_cufft_computes_is_not_recorded_as_its_plans_may_be_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = 1, 16, 24
    by_fft, by_products = (painter_on_cuda(monkeypatch, way) for way in (0, 1))
    assert by_products._can_record(size)
    by_fft.has_chosen = False
    by_fft.prepare(*size, 0)
    assert not by_fft.recorded
    # Another size may be recorded, and is what the switches are chosen by.
    assert not by_fft.has_chosen


def painter_on_cuda(monkeypatch: pytest.MonkeyPatch, way: int) -> Painter:
    """One that would record; in float32 cuFFT is the first of the two ways."""
    monkeypatch.setattr(fourier, "_faster", lambda ways, sample: way)
    network = FusedNetwork(fold(tiny.tiny_model().generator), CPU, torch.float32, Kernels())
    network.units(1, 16, 24)
    painter = Painter(network, CPU, Turns())
    monkeypatch.setattr(painter, "_device", torch.device("cuda"))
    return painter


@needs_compiler
def test_pictures_with_more_rows_than_a_grid_can_have_are_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.tiny_model()
    picture, hole = tiny.picture(88, 32), tiny.box_mask(88, 32) > 0
    made = as_on_a_gpu(model, "emulated", monkeypatch)
    (expected,) = made.fill(picture[None], hole[None])
    monkeypatch.setattr(nvrtc, "MOST_ROWS", 7)
    (filled,) = made.fill(picture[None], hole[None])
    assert np.array_equal(filled, expected)


def bright_batch(engine: Engine) -> np.ndarray | None:
    picture, hole = np.full((1, 24, 24, 3), 255, np.uint8), tiny.box_mask(24, 24)[None] > 0
    return engine.fill(picture, hole)[0]


def overflowing_engine(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool) -> Engine:
    monkeypatch.setattr(engines, "_has_bfloat16", lambda device: has_bfloat16)
    made = Engine(overflowing_model().generator, CPU, torch.float16)
    made._by_windows = False
    made.prepare(1, 24, 24)
    return made


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_device_on_which_float16_always_overflows_changes_to_the_next_dtype_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, has_bfloat16: bool
) -> None:
    made = overflowing_engine(monkeypatch, has_bfloat16)
    results = [bright_batch(made) for _ in range(3 * MOST_OVERFLOWED)]
    assert made.half_fallbacks == MOST_OVERFLOWED
    assert made.network.dtype == (torch.bfloat16 if has_bfloat16 else torch.float32)
    for one in results:
        assert np.abs(one.astype(int) - results[0]).max() <= 2
    lines = [line for line in caplog.messages if "from now on" in line]
    assert len(lines) == 1
    assert str(made.network.dtype) in lines[0]
    # What was recorded is recorded again.
    assert made.is_recorded(1, 24, 24)


def test_where_bfloat16_overflows_too_float32_is_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = overflowing_engine(monkeypatch, True)
    for _ in range(MOST_OVERFLOWED):
        bright_batch(made)
    assert made.network.dtype == torch.bfloat16
    for _ in range(MOST_OVERFLOWED):
        made.judge(4, 4)
    assert made.network.dtype == torch.float32
    assert sum("from now on" in line for line in caplog.messages) == 2


def test_a_device_is_not_checked_while_something_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("empty cache"))
    made = Engine(tiny.tiny_model().generator, CPU, torch.float32)
    with made.turns:
        checking = threading.Thread(target=made.check_device)
        checking.start()
        wait_until(lambda: len(made.turns._line) == 2, "it waits for its turn")
        assert not asked
    checking.join()
    assert asked == ["empty cache"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("NVRTC for sm_61: invalid value for --gpu-architecture"),
        RuntimeError("cuModuleLoadData failed with status 222"),  # PTX newer than the driver
        OSError("libnvrtc.so.13 is not there"),
        AttributeError("undefined symbol: nvrtcGetCUBINSize"),
    ],
)
def test_a_compiler_that_does_not_suit_the_device_is_one_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(engines, "CudaKernels", fail)
    monkeypatch.setattr(engines, "ends_for", fail)  # without kernels nobody asks for these
    monkeypatch.setattr(engines, "Network", lambda folded, device, dtype: "the plain network")
    monkeypatch.setattr(engines, "Painter", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        made = Engine(tiny.tiny_model().generator, torch.device("cuda"), torch.float16)
    assert made.network == "the plain network"
    (line,) = caplog.messages
    assert str(error) in line
