"""A batch that is too much is done in parts, and what no part can do fails in clear words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import DeviceFault, TransientFailure
from core.network import LaMa, halving
from core.pixels.handover import Restored
from harness import ROOT
from lama.halving import is_out_of_memory
from lama.inpainter import Inpainter


@dataclass
class _One:
    """As much of a loaded job as the network's failures are told of."""

    number: int
    side: int = 8

    @property
    def image(self) -> np.ndarray:
        return np.full((self.side, 2 * self.side, 3), self.number, np.uint8)

    @property
    def job(self) -> Any:
        return SimpleNamespace(request_id=f"r{self.number}")


One: Any = _One  # where whole jobs are asked for


class SmallGpu:
    """Has memory for so many pixels; remembers the sizes of the batches that it was given."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.batches: list[int] = []

    def __call__(self, batch: Sequence[Any]) -> list[np.ndarray]:
        self.batches.append(len(batch))
        if sum(one.image[..., 0].size for one in batch) > self.pixels:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of "
                "5.79 GiB of which 1.01 GiB is free. Including non-PyTorch memory, this process "
                "has 4.10 GiB memory in use. Of the allocated memory 3.90 GiB is allocated by "
                "PyTorch, and 101.00 MiB is reserved by PyTorch but unallocated."
            )
        return [one.image + 1 for one in batch]


def test_a_batch_that_does_not_fit_is_halved_until_it_fits_and_keeps_its_order() -> None:
    gpu = SmallGpu(pixels=2 * 128)
    pictures: Any = halving(gpu, [One(number) for number in range(7)])
    assert [int(picture[0, 0, 0]) for picture in pictures] == [1, 2, 3, 4, 5, 6, 7]
    assert gpu.batches == [7, 3, 1, 2, 4, 2, 2]


def test_one_picture_that_does_not_fit_fails_with_its_size_and_what_it_needs() -> None:
    small, large, other = halving(SmallGpu(2 * 128), [One(1), One(2, side=20), One(3)])
    assert isinstance(small, np.ndarray)
    assert isinstance(other, np.ndarray)
    assert isinstance(large, TransientFailure)
    assert large.reason == "out_of_memory"
    assert str(large) == (
        "a picture of 40×20 pixels does not fit into memory, it needs at least 5530 MiB: CUDA out "
        "of memory"
    )


def test_memory_of_the_failed_try_is_free_when_the_next_one_begins() -> None:
    alive: list[int] = []

    class Tensor:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def infer(batch: Sequence[Any]) -> list[np.ndarray]:
        assert not alive
        tensor = Tensor()
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [one.image for one in batch if tensor]

    def look() -> None:
        assert not alive

    assert len(halving(infer, [One(1), One(2), One(3)], look)) == 3


def test_a_device_that_fails_at_everything_is_not_the_pictures_fault() -> None:
    def infer(_: Sequence[Any]) -> list[np.ndarray]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def look() -> None:
        raise DeviceFault("it fails at everything")

    with pytest.raises(DeviceFault):
        halving(infer, [One(1), One(2)], look)
    assert all(isinstance(one, TransientFailure) for one in halving(infer, [One(1), One(2)]))


def test_a_gpu_that_cannot_add_is_a_device_fault_and_a_cpu_never_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[bool] = []

    def fail() -> None:
        looked.append(True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Inpainter, "engine", SimpleNamespace(check_device=fail))
    network = LaMa.__new__(LaMa)
    network.inpainter = Inpainter.__new__(Inpainter)
    network.inpainter.device = "cpu"
    network.check_device()
    assert not looked
    network.inpainter.device = "cuda"
    with pytest.raises(DeviceFault, match="cuda fails at everything"):
        network.check_device()
    assert looked


class Failing:
    """A picture that never arrives."""

    def result(self) -> np.ndarray:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Arriving:
    def result(self) -> np.ndarray:
        return np.ones((2, 2, 3), np.uint8)


def test_a_copy_that_fails_costs_its_picture_only_unless_the_device_is_broken() -> None:
    network = LaMa.__new__(LaMa)
    stand_in: Any = SimpleNamespace(device="cuda", region="full")
    network.inpainter = stand_in
    network.check_device = lambda: None  # type: ignore[method-assign]
    here = np.zeros((2, 2, 3), np.uint8)
    arrived, failed, kept = network.collect([Arriving(), Failing(), here])
    assert isinstance(arrived, Restored)
    assert arrived.pixels.all()
    assert isinstance(failed, TransientFailure)
    assert kept is here

    def broken() -> None:
        raise DeviceFault("it fails at everything")

    network.check_device = broken  # type: ignore[method-assign]
    with pytest.raises(DeviceFault):
        network.collect([Failing()])


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_what_cuda_says_beside_torchs_allocator_is_no_memory_too(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))


#: Memory runs out for real: the large picture's activations do not fit into what is allowed.
OUT_OF_MEMORY = """
import resource, sys
from types import SimpleNamespace
import numpy as np, torch
from core.config import Settings
from core.network import LaMa

torch.set_num_threads(1)
golden = sys.argv[1]
settings = Settings(
    _env_file=None, use_cuda=False, use_fp16=False,
    lama_config_path=golden + "/config.yaml",
    lama_checkpoint_path=golden + "/models/best.ckpt",
)
network = LaMa(settings)

def one(side):
    mask = np.zeros((side, side), np.uint8)
    mask[:8, :8] = 255
    job = SimpleNamespace(request_id=str(side), padding=(0, 0, 0, 0))
    image = np.zeros((side, side, 3), np.uint8)
    return SimpleNamespace(job=job, image=image, mask=mask, staged=None)

in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (300 << 20), resource.RLIM_INFINITY))
for result in network([one(64), one(4000), one(64)]):
    print(result.shape if isinstance(result, np.ndarray) else f"{result.reason}: {result}")
"""


def test_memory_that_really_runs_out_costs_only_the_picture_that_needs_it() -> None:
    golden = ROOT / "tests/data/golden/blocks2-ngf16"
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(golden)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    first, large, last = done.stdout.splitlines()
    assert first == last == "(64, 64, 3)"
    assert large.startswith("out_of_memory: a picture of 4000×4000 pixels does not fit")
    assert "it needs at least" in large
