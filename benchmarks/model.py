"""The engine against the network as it was published and the ways others run it.

Competitors take turns in one process, from bytes to bytes, with a matrix product of the same
precision, whose rate is the limit. `--memory` measures the peak of each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import competitors, machine, subjects
from benchmarks.report import RESULTS, Report
from benchmarks.timing import alternate
from core.machine import keep_freed_memory
from lama.engine.engine import as_pixels
from lama.saicinpainting.training.modules.precision import half_dtype

KEYS = ("network", "mask", "batch", "size", "threads", "device", "keep_memory", "competitor")

#: Which competitors compute in half precision and so have the higher limit.
_HALF = ("engine half", "OpenVINO bfloat16", "reference autocast", "torch.compile autocast")

#: Side of the square matrices whose product is timed: those that fill the device.
_SIDES = {"cpu": 2048, "cuda": 8192}


def main() -> None:
    """Measure, print, write."""
    options = _parse()
    if options.keep_memory:
        keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak_of:
        print(json.dumps(_peak(options.peak_of, options)))
        return
    name = "model-memory" if options.memory else "model"
    report = Report(name, KEYS, options.json or RESULTS / f"{name}.json")
    for size in options.size:
        height, width = (int(side) for side in size.split("x"))
        about = {
            "network": options.network,
            "mask": options.mask,
            "batch": options.batch,
            "size": size,
            "threads": torch.get_num_threads(),
            "device": options.device,
            "keep_memory": options.keep_memory,
        }
        if options.memory:
            _measure_memory(report, about, options)
        else:
            _measure_time(report, about, options, height, width)
        report.write()
    report.finish()


def _measure_time(
    report: Report, about: dict[str, object], options: argparse.Namespace, height: int, width: int
) -> None:
    model = subjects.model(options.network).to(options.device)
    images = subjects.pictures(options.batch, height, width)
    hole = subjects.holes(options.mask, options.batch, height, width)
    example = subjects.masked_tensor(images, hole)
    there = {}
    for name in options.competitors:
        try:
            there[name] = competitors.make(name, model, example, options.device)
        except Exception as error:
            print(f"{name} is left out: {type(error).__name__}: {error}"[:300], file=sys.stderr)
    half = half_dtype(options.device)
    timed: dict[str, Callable[[], object]]
    if options.device == "cpu":
        timed = {name: partial(one.fill, images, hole) for name, one in there.items()}
    else:
        pixels = as_pixels(images, hole).cuda()
        timed = {
            name: _waited_for(partial(competitor.fill_on_device, pixels))
            for name, competitor in there.items()
        }
    timed |= {str(dtype): _product(dtype, options.device) for dtype in {torch.float32, half}}
    timings = alternate(timed, options.rounds)
    expected = there["reference"].predict(images, hole)
    work = subjects.operations(model.generator, options.batch, height, width)
    for name, competitor in there.items():
        product = str(half if name in _HALF else torch.float32)
        rate = 2 * _SIDES[options.device] ** 3 / timings.median(product)
        painted = competitor.predict(images, hole)
        report.add(
            **about,
            competitor=name,
            seconds=timings.median(name),
            ratio=timings.ratio(name, "reference"),
            limit=work / rate / timings.median(name),
            gflops=work / timings.median(name) / 1e9,
            psnr=_finite(subjects.decibels(painted, expected, hole)),
            largest_difference=float(np.abs(painted - expected).max()),
        )


def _product(dtype: torch.dtype, device: str) -> Callable[[], object]:
    side = _SIDES[device]
    matrix = torch.randn(side, side, device=device).to(dtype)
    multiply = partial(torch.mm, matrix, matrix)
    return multiply if device == "cpu" else _waited_for(multiply)


def _waited_for(act: Callable[[], object]) -> Callable[[], object]:
    """On a GPU it is done when the device is."""

    def run() -> None:
        act()
        torch.cuda.synchronize()

    return run


def _measure_memory(report: Report, about: dict[str, object], options: argparse.Namespace) -> None:
    for name in options.competitors:
        command = [sys.executable, "-m", "benchmarks.model", "--peak-of", name]
        for option in ("network", "batch", "size", "threads", "device", "mask"):
            command += [f"--{option}", str(about[option])]
        command += ["--keep-memory"] * options.keep_memory
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} is left out: {done.stderr[-300:]}", file=sys.stderr)
            continue
        report.add(**about, competitor=name, **json.loads(done.stdout.splitlines()[-1]))


def _peak(name: str, options: argparse.Namespace) -> dict[str, float]:
    """What a run needs beyond the loaded network, and the process as a whole, MB."""
    height, width = (int(side) for side in options.size[0].split("x"))
    model = subjects.model(options.network).to(options.device)
    images = subjects.pictures(options.batch, height, width)
    hole = subjects.holes(options.mask, options.batch, height, width)
    example = subjects.masked_tensor(images, hole)
    competitor = competitors.make(name, model, example, options.device)
    if name.startswith(("engine", "reference")):
        small = np.s_[:1, :64, :64]
        competitor.fill(images[small], hole[small])  # what only happens once
    if options.device == "cuda":
        return _peak_of_device(competitor, as_pixels(images, hole).cuda())
    before = machine.resident_bytes()
    machine.reset_peak()
    competitor.fill(images, hole)
    peak = machine.peak_bytes()
    megapixels = options.batch * height * width / 2**20
    return {
        "peak_mb": peak / 1e6,
        "beyond_network_mb": (peak - before) / 1e6,
        "mb_per_megapixel": (peak - before) / 1e6 / megapixels,
    }


def _peak_of_device(competitor: competitors.Competitor, pixels: torch.Tensor) -> dict[str, float]:
    """Device memory of the whole process, with CUDA's own and the weights; the host's process."""
    competitor.fill_on_device(pixels)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    # What torch holds, it holds at its peak: it gives nothing back.
    return {"device_mb": (total - free) / 1e6, "peak_mb": machine.peak_bytes() / 1e6}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=subjects.NETWORKS, default="lama-fourier")
    parser.add_argument("--size", nargs="+", default=["512x512"], help="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--mask", choices=subjects.MASKS, default="blocks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--keep-memory", action="store_true", help="malloc keeps what is freed, as in the worker"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument(
        "--competitors",
        nargs="+",
        default=list(competitors.NAMES[:3]),
        choices=competitors.NAMES,
        metavar="NAME",
        help=f"of {', '.join(competitors.NAMES)}",
    )
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="where the rows go (in benchmarks/results/)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
