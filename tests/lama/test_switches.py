"""Ways to compute the same: that they do, and which is chosen."""

from __future__ import annotations

import threading
from dataclasses import astuple

import pytest
import torch

from lama.engine.engine import Engine
from lama.engine.folding import fold
from lama.engine.fused import FusedNetwork
from lama.engine.kernels import Kernels, interleaved
from lama.engine.painter import Painter
from lama.engine.switches import Recorders, Switches, choose
from tests.lama import tiny

CPU = torch.device("cpu")


class Device:
    """On which each setting of the switches takes its time."""

    def __init__(self, switches: Switches, seconds: dict[tuple, float | None]) -> None:
        self._switches, self._seconds = switches, seconds
        self.tried: list[tuple] = []

    def record(self):
        self.tried.append(setting := astuple(self._switches))
        found = self._seconds.get(setting, 1.0)
        return None if found is None else lambda: found

    def seconds(self, run) -> float:
        return run()


USUAL = astuple(Switches())
ONE_STREAM = (False, False, "transposed")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({}, USUAL),
        ({ONE_STREAM: 0.9}, ONE_STREAM),
        ({ONE_STREAM: 0.99}, USUAL),  # not clearly
        ({(True, True, "transposed"): 0.9}, (True, True, "transposed")),
        ({(True, False, "blocks"): 0.9}, (True, False, "blocks")),
        ({(True, False, "rows"): 0.9}, (True, False, "rows")),
        ({(True, False, "blocks"): 0.9, (True, False, "rows"): 0.8}, (True, False, "rows")),
        ({(True, False, "blocks"): 0.8, (True, False, "rows"): 0.79}, (True, False, "blocks")),
        # Each is tried with those that are chosen already.
        ({ONE_STREAM: 0.9, (False, True, "transposed"): 0.8}, (False, True, "transposed")),
        ({ONE_STREAM: 0.9, (True, True, "transposed"): 0.1}, ONE_STREAM),
        # What cannot be recorded is not chosen.
        ({ONE_STREAM: None, (True, True, "transposed"): 0.9}, (True, True, "transposed")),
        ({USUAL: None, ONE_STREAM: 0.1}, USUAL),
    ],
)
def test_only_what_is_clearly_faster_is_chosen(seconds, chosen) -> None:
    switches = Switches()
    device = Device(switches, seconds)
    choose(switches, device.record, device.seconds)
    assert astuple(switches) == chosen
    assert len(device.tried) == (1 if seconds.get(USUAL, 1) is None else 5)


@pytest.mark.parametrize("ups", ["blocks", "rows"])
@pytest.mark.parametrize("size", [(16, 24), (40, 56)])
@torch.no_grad()
def test_transposed_convolutions_in_another_form_are_the_same(size, ups) -> None:
    network = FusedNetwork(fold(tiny.tiny_model().generator), CPU, torch.float32, Kernels())
    pixels = torch.randint(0, 256, (2, *size, 4), dtype=torch.uint8)
    pixels[..., 3] = torch.where(pixels[..., 3] > 128, 255, 0)
    expected, painted = network.logits(pixels), network.paint(pixels)
    network.switches.ups = ups
    torch.testing.assert_close(network.logits(pixels), expected, rtol=0, atol=1e-5)
    found = network.paint(pixels)
    assert torch.equal(found[0], painted[0])
    assert torch.equal(found[1], painted[1])


@pytest.mark.parametrize("ups", ["blocks", "rows"])
@torch.no_grad()
def test_each_layer_in_another_form_is_the_same(ups) -> None:
    torch.manual_seed(0)
    network = FusedNetwork(fold(tiny.tiny_model(ngf=16).generator), CPU, torch.float32, Kernels())
    for up in network._ups:
        x = torch.randn(2, 5, 7, len(up._weight))
        network.switches.ups = "transposed"
        expected, odd = up(x)
        assert odd is None
        assert expected.shape == up.shape(x)
        network.switches.ups = ups
        even, odd = up(x)
        torch.testing.assert_close(interleaved(even, odd), expected, rtol=0, atol=1e-5)


def test_each_way_of_cudnn_has_a_thread_that_stays() -> None:
    recorders = Recorders()

    def seen() -> tuple[bool, int, bool]:
        return (
            torch.backends.cudnn.benchmark,
            threading.get_ident(),
            torch.is_grad_enabled(),
        )

    without, with_it = (recorders.run(benchmark, seen) for benchmark in (False, True))
    assert (without[0], with_it[0]) == (False, True)
    assert without[1] != with_it[1]
    assert recorders.run(False, seen) == without
    assert recorders.run(True, seen) == with_it
    assert not without[2]
    assert not torch.backends.cudnn.benchmark
    with pytest.raises(RuntimeError, match="out of memory"):
        recorders.run(True, fail)
    assert not torch.backends.cudnn.benchmark


def fail() -> None:
    raise RuntimeError("CUDA error: out of memory")


def test_an_engine_chooses_by_the_first_size_before_it_records_it() -> None:
    model = tiny.tiny_model()
    engine = Engine(model.generator, CPU, torch.float32)
    engine._by_windows = False
    engine.network = network = FusedNetwork(fold(model.generator), CPU, torch.float32, Kernels())
    engine._painter = Painter(network, CPU, engine.turns)
    engine._painter.has_chosen = False
    seen: list[tuple] = []

    def seconds(run) -> float:
        run()
        seen.append(astuple(network.switches))
        return {"transposed": 1.0, "blocks": 0.7, "rows": 0.5}[network.switches.ups]

    engine._painter.seconds = seconds
    engine.prepare(2, 16, 24)
    others = [(True, False, "blocks"), (True, False, "rows")]
    assert seen == [USUAL, ONE_STREAM, (True, True, "transposed"), *others]
    assert astuple(network.switches) == others[1]
    assert list(engine._painter.recorded) == [(2, 16, 24, 0)]
    engine.prepare(1, 16, 24)
    assert len(seen) == 5
