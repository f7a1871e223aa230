"""Half precision is chosen where it is faster, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from harness import ROOT
from lama.engine import precision
from lama.engine.precision import decide, faster
from lama.saicinpainting.training.modules import precision as hardware

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture
def measured(monkeypatch):
    """Nothing is known yet, the processor has bfloat16 units, and measurements are counted."""
    monkeypatch.setattr(precision, "_decided", {})
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))
    counted = []

    def counting(half, rates=precision._rates):
        counted.append(half)
        return rates(half)

    monkeypatch.setattr(precision, "_rates", counting)
    return counted


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [
        (155e9, 84e9, FLOAT32),
        (150e9, 320e9, BFLOAT16),
        (100e9, 100e9, FLOAT32),
        (100e9, 110e9, FLOAT32),  # nearly alike: the exact one
        (100e9, 120e9, BFLOAT16),
    ],
)
def test_half_precision_is_chosen_only_where_it_is_clearly_faster(float32, bfloat16, chosen):
    found = faster({FLOAT32: float32, BFLOAT16: bfloat16}, BFLOAT16)
    assert found.dtype == chosen


def test_what_was_chosen_says_both_rates():
    slow = faster({FLOAT32: 155e9, BFLOAT16: 84e9}, BFLOAT16)
    assert str(slow) == "float32 (155 GFLOP/s, bfloat16 84)"
    fast = faster({FLOAT32: 150e9, BFLOAT16: 320e9}, BFLOAT16)
    assert str(fast) == "bfloat16 (320 GFLOP/s, float32 150)"


def test_a_real_measurement_decides_once_for_all_threads(measured):
    found = []
    threads = [threading.Thread(target=lambda: found.append(decide("cpu", True))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert measured == [BFLOAT16]
    assert len(found) == 4
    assert len(set(found)) == 1
    assert found[0].dtype in (FLOAT32, BFLOAT16)
    assert "GFLOP/s" in found[0].why


def test_another_number_of_threads_is_measured_by_itself(measured, monkeypatch):
    for threads in (1, 2, 1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        decide("cpu", True)
    assert len(measured) == 2


def test_a_measurement_leaves_random_numbers_as_they_were(measured):
    before = torch.get_rng_state()
    decide("cpu", True)
    assert measured
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
@pytest.mark.parametrize("rate", [1e9, 1e12])
def test_on_a_processor_with_bfloat16_units_the_rates_decide(measured, monkeypatch, flag, rate):
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset({flag}))
    monkeypatch.setattr(precision, "_rates", lambda half: {FLOAT32: 1e11, half: rate})
    assert decide(torch.device("cpu"), True).dtype == (BFLOAT16 if rate > 1e11 else FLOAT32)


@pytest.mark.parametrize(
    ("flags", "use_fp16", "device", "expected"),
    [
        ({"avx2", "avx512f"}, True, "cpu", FLOAT32),
        (set(), True, "cpu", FLOAT32),
        ({"avx512_bf16"}, False, "cpu", FLOAT32),
        (set(), True, "cuda", FLOAT16),
        (set(), True, torch.device("cuda", 1), FLOAT16),
        (set(), False, "cuda:0", FLOAT32),
    ],
)
def test_elsewhere_nothing_is_measured(measured, monkeypatch, flags, use_fp16, device, expected):
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset(flags))
    assert decide(device, use_fp16).dtype == expected
    assert measured == []


def test_deciding_imports_nothing_that_the_network_does_not_need_anyway():
    program = """
import sys
from lama.saicinpainting.training.modules import precision as hardware
import lama.inference
from lama.engine import precision
hardware._cpu_flags = lambda: frozenset({"avx512_bf16"})
before = set(sys.modules)
precision.decide("cpu", True)
assert precision._decided
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
