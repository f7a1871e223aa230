"""Ways to compute the same: that they do, and which is chosen."""

from __future__ import annotations

import threading
from dataclasses import astuple, fields

import pytest
import torch

from lama.engine.engine import Engine
from lama.engine.folding import fold
from lama.engine.fused import FusedNetwork
from lama.engine.kernels import Kernels
from lama.engine.painter import Painter
from lama.engine.switches import Recorders, Switches, choose
from tests.lama import tiny

CPU = torch.device("cpu")


class Device:
    """On which each setting of the switches takes its time."""

    def __init__(self, switches: Switches, seconds: dict[tuple[bool, ...], float | None]) -> None:
        self._switches, self._seconds = switches, seconds
        self.tried: list[tuple[bool, ...]] = []

    def record(self):
        self.tried.append(setting := astuple(self._switches))
        found = self._seconds.get(setting, 1.0)
        return None if found is None else lambda: found

    def seconds(self, run) -> float:
        return run()


USUAL = astuple(Switches())


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({}, USUAL),
        ({(False, False, False): 0.9}, (False, False, False)),
        ({(False, False, False): 0.99}, USUAL),  # not clearly
        ({(True, True, False): 0.9}, (True, True, False)),
        ({(True, False, True): 0.9}, (True, False, True)),
        # Each is tried with those that are chosen already.
        ({(False, False, False): 0.9, (False, True, False): 0.8}, (False, True, False)),
        ({(False, False, False): 0.9, (True, True, False): 0.1}, (False, False, False)),
        # What cannot be recorded is not chosen.
        ({(False, False, False): None, (True, True, False): 0.9}, (True, True, False)),
        ({USUAL: None, (False, False, False): 0.1}, USUAL),
    ],
)
def test_only_what_is_clearly_faster_is_chosen(seconds, chosen) -> None:
    switches = Switches()
    device = Device(switches, seconds)
    choose(switches, device.record, device.seconds)
    assert astuple(switches) == chosen
    assert len(device.tried) == (1 if seconds.get(USUAL, 1) is None else 1 + len(fields(Switches)))


@pytest.mark.parametrize("size", [(16, 24), (40, 56)])
@torch.no_grad()
def test_transposed_convolutions_by_blocks_are_the_same(size) -> None:
    network = FusedNetwork(fold(tiny.tiny_model().generator), CPU, torch.float32, Kernels())
    pixels = torch.randint(0, 256, (2, *size, 4), dtype=torch.uint8)
    pixels[..., 3] = torch.where(pixels[..., 3] > 128, 255, 0)
    expected, painted = network.logits(pixels), network.paint(pixels)
    network.switches.ups_by_blocks = True
    torch.testing.assert_close(network.logits(pixels), expected, rtol=0, atol=1e-5)
    found = network.paint(pixels)
    assert torch.equal(found[0], painted[0])
    assert torch.equal(found[1], painted[1])


@torch.no_grad()
def test_each_layer_by_blocks_is_the_same() -> None:
    torch.manual_seed(0)
    network = FusedNetwork(fold(tiny.tiny_model(ngf=16).generator), CPU, torch.float32, Kernels())
    for up in network._ups:
        x = torch.randn(2, 5, 7, len(up._weight))
        torch.testing.assert_close(up._by_blocks(x), up(x), rtol=0, atol=1e-5)


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
    engine._painter = Painter(network, CPU, engine._turns)
    engine._painter.has_chosen = False
    seen: list[tuple[bool, ...]] = []

    def seconds(run) -> float:
        run()
        seen.append(astuple(network.switches))
        return 0.5 if network.switches.ups_by_blocks else 1.0

    engine._painter.seconds = seconds
    engine.prepare(2, 16, 24)
    assert seen == [USUAL, (False, False, False), (True, True, False), (True, False, True)]
    assert astuple(network.switches) == (True, False, True)
    assert list(engine._painter.recorded) == [(2, 16, 24, 0)]
    engine.prepare(1, 16, 24)
    assert len(seen) == 4
