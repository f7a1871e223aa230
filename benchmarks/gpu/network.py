"""The engine on a device: what limits it, its choices, its kernels, its precision, its memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks import competitors, subjects
from benchmarks.gpu.scale import Row, Scale, seconds, wait
from benchmarks.timing import alternate
from lama.engine import Engine
from lama.engine.ends import Ends
from lama.engine.engine import as_pixels
from lama.engine.fused import FusedNetwork
from lama.engine.painter import Painter
from lama.engine.switches import Switches
from lama.saicinpainting.training.modules.precision import half_dtype
from lama.saicinpainting.training.trainers import InpaintingModel

#: Settings of the switches that are compared with the usual ones.
SWITCHES: Final = {
    "one stream": Switches(second_stream=False),
    "cudnn.benchmark": Switches(benchmark=True),
    "ups by blocks": Switches(ups="blocks"),
    "ups by rows": Switches(ups="rows"),
}

#: Kernels that are listed.
MOST_KERNELS: Final = 25


def ceilings(scale: Scale) -> Iterator[Row]:
    """The rates of copies and of matrix products."""
    one, other = (torch.empty(scale.copied, dtype=torch.uint8, device=scale.device) for _ in "ab")
    taken = seconds(partial(other.copy_, one), scale)
    yield {"what": "copy on the device, read and written", "GB/s": 2 * scale.copied / taken / 1e9}
    if scale.device == "cuda":
        host = torch.empty(scale.copied, dtype=torch.uint8, pin_memory=True)
        for what, target, source in (("to", one, host), ("from", host, one)):
            taken = seconds(partial(target.copy_, source, non_blocking=True), scale)
            yield {"what": f"copy {what} the device, pinned", "GB/s": scale.copied / taken / 1e9}
    side = scale.matrix_side
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        matrix = torch.randn(side, side, device=scale.device).to(dtype)
        taken = seconds(partial(torch.mm, matrix, matrix), scale)
        yield {"what": f"product {side}×{side}, {dtype}", "TFLOP/s": 2 * side**3 / taken / 1e12}


def choices(scale: Scale) -> Iterator[Row]:
    """A batch with each choice of the engine on and off, in turns."""
    for name in scale.networks:
        model = subjects.model(name).to(scale.device)
        for batch in sorted({scale.batch, 1}, reverse=True):
            yield from _compared(name, model, batch, scale)


def _compared(name: str, model: InpaintingModel, batch: int, scale: Scale) -> Iterator[Row]:
    size = batch, scale.side, scale.side
    pixels = _pixels(*size, scale.device)
    ways = {"usual": _engine(model, scale, size), "not recorded": _engine(model, scale, None)}
    if batch == scale.batch:
        ways["ends not recorded"] = _engine(model, scale, size, ends=Ends())
        if isinstance(ways["usual"].network, FusedNetwork):
            ways |= {
                way: _engine(model, scale, size, switches) for way, switches in SWITCHES.items()
            }
    acts = {way: _painting(engine, pixels, scale) for way, engine in ways.items()}
    timings = alternate(acts, scale.rounds)
    work = subjects.operations(model.generator, *size)
    for way, engine in ways.items():
        taken = timings.median(way) / scale.calls
        yield {
            "network": name,
            "size": "×".join(map(str, size)),
            "way": way,
            "ms": taken * 1000,
            "host ms": _launching(engine, pixels, scale) * 1000,
            "times usual": timings.ratio(way, "usual"),
            "TFLOP/s": work / taken / 1e12,
        }


def _engine(
    model: InpaintingModel,
    scale: Scale,
    size: tuple[int, int, int] | None,
    switches: Switches | None = None,
    ends: Ends | None = None,
) -> Engine:
    """An engine of its own in half precision, with a recording for batches of a size.

    It chooses no switches by itself. `ends` replaces its own.
    """
    device = torch.device(scale.device)
    engine = Engine(model.generator, device, half_dtype(device))
    if isinstance(engine.network, FusedNetwork):
        engine.network.switches = switches or Switches()
    if ends is not None:
        engine._painter = Painter(engine.network, device, engine.turns, ends)
    engine._painter.has_chosen = True
    if size is not None:
        engine.prepare(*size)
    return engine


def _painting(engine: Engine, pixels: Tensor, scale: Scale) -> Callable[[], None]:
    @torch.no_grad()
    def paint() -> None:
        for _ in range(scale.calls):
            engine.paint(pixels)
        wait(scale.device)

    return paint


@torch.no_grad()
def _launching(engine: Engine, pixels: Tensor, scale: Scale) -> float:
    """Seconds of the host to start a batch on a device that has nothing to do."""
    taken = []
    for _ in range(scale.rounds):
        wait(scale.device)
        began = time.perf_counter()
        engine.paint(pixels)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def kernels(scale: Scale) -> Iterator[Row]:
    """A batch that is not recorded, by kernel: the device's time, its share, and the calls."""
    for name in reversed(scale.networks):
        engine = _engine(subjects.model(name).to(scale.device), scale, None)
        pixels = _pixels(scale.batch, scale.side, scale.side, scale.device)
        with torch.no_grad():
            engine.paint(pixels)
            wait(scale.device)
            with torch.profiler.profile() as profile:
                engine.paint(pixels)
                wait(scale.device)
        yield from _by_time(name, profile, scale)


def _by_time(name: str, profile: Any, scale: Scale) -> Iterator[Row]:
    on_gpu = scale.device == "cuda"
    taken = sorted(
        (
            (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000,
            event.count,
            event.key,
        )
        for event in profile.key_averages()
        if not on_gpu or event.device_type.name == "CUDA"
    )
    total = sum(ms for ms, _, _ in taken)
    yield {"network": name, "kernels": sum(count for _, count, _ in taken), "ms": total}
    for ms, count, key in reversed(taken[-MOST_KERNELS:]):
        yield {"ms": ms, "share": ms / total, "calls": count, "kernel": key[:120]}


def precision(scale: Scale) -> Iterator[Row]:
    """PSNR of half precision against float32 over the hole, and the largest difference."""
    for name in scale.networks:
        model = subjects.model(name).to(scale.device)
        images = subjects.pictures(scale.batch, scale.side, scale.side)
        for holes in subjects.MASKS:
            hole = subjects.holes(holes, *images.shape[:3])
            example = subjects.masked_tensor(images, hole)
            half, exact = (
                competitors.make(f"engine {which}", model, example, scale.device).predict(
                    images, hole
                )
                for which in ("half", "float32")
            )
            yield {
                "network": name,
                "holes": holes,
                "dtype": str(half_dtype(scale.device)),
                "PSNR dB": subjects.decibels(half, exact, hole),
                "largest difference, levels": float(255 * np.abs(half - exact)[hole].max()),
                "finite": bool(np.isfinite(half).all()),
            }


def memory(scale: Scale) -> Iterator[Row]:
    """The device's memory for batches of one size, with CUDA's own and the weights, MB."""
    before = torch.cuda.mem_get_info()[0]
    engine = _engine(
        subjects.model("lama-fourier").to(scale.device),
        scale,
        (scale.batch, scale.side, scale.side),
    )
    with torch.no_grad():
        engine.paint(_pixels(scale.batch, scale.side, scale.side, scale.device))
    wait(scale.device)
    free, total = torch.cuda.mem_get_info()
    yield {
        "network": "lama-fourier",
        "device MB in all": (total - free) / 1e6,
        "since CUDA's start MB": (before - free) / 1e6,
        "torch's MB": torch.cuda.memory_reserved() / 1e6,
    }


def _pixels(batch: int, height: int, width: int, device: str) -> Tensor:
    images = subjects.pictures(batch, height, width)
    return as_pixels(images, subjects.holes("blocks", batch, height, width)).to(device)
