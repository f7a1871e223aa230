"""Whole folders: pictures a second against the bare network, in process and on Ray; memory.

`throughput` takes product pages 860 wide, as JPEG, through `bulk`; the baseline is the same pages,
decoded already, through the network in a loop. Each way has a process of its own, since the first
window of each size costs more than the next. `pictures/s` is of the whole run with a network that
is loaded, but for Ray's, which has its start and its actors' in it; `steady` is without the first
third of the pictures. Up to two dozen pictures are in flight by then, which favours the ways that
work in batches, so that it takes hundreds of pages for a meaningful figure. `memory` takes pictures
that all have different sizes, and says how much memory the process holds on the way. `strip` is one
page of 20,000 rows, and the most memory that the command holds for it, with Python and the network.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from benchmarks import machine
from benchmarks.layouts import HIGHEST, LOWEST, strip
from benchmarks.report import Report, Row, add_output_argument, table
from bulk import on_ray
from bulk.local import Line
from bulk.run import Request, prepare
from bulk.stages import Decoder, Encoder, Filler
from core.config import PROJECT_ROOT, Settings, load_settings
from core.network import load_inpainter, settle_memory
from core.pictures.errors import PictureError, Remark

#: Pixels: the sides of the pictures of `memory`.
SHORTEST, LONGEST = 100, 420

#: Of the page of `strip`.
STRIP_ROWS: Final = 20_000

SECTIONS: Final = ("throughput", "memory", "strip")


class Clock:
    """Notes when each picture was done, and how much memory the process held by then."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.times: list[float] = []
        self.resident: list[int] = []

    def __call__(
        self, name: str, error: PictureError | None, remarks: Sequence[Remark] = ()
    ) -> None:
        if error is not None:
            raise SystemExit(f"{name}: {error}")
        self.times.append(time.perf_counter())
        self.resident.append(machine.resident_bytes())

    def rate(self, first: int = 0) -> float:
        """Pictures a second from when `first` of them were done until the last one was."""
        began = self.times[first - 1] if first else self.began
        return (len(self.times) - first) / (self.times[-1] - began)


class Folders:
    """Pages with masks in a folder that goes away."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for name in ("pages", "masks"):
            (root / name).mkdir()
        self._runs = 0

    def add(self, number: int, image: np.ndarray, mask: np.ndarray) -> None:
        bgr = np.ascontiguousarray(image[..., ::-1])
        quality = [cv2.IMWRITE_JPEG_QUALITY, 92]
        cv2.imwrite(str(self._root / f"pages/{number:05}.jpg"), bgr, quality)
        cv2.imwrite(str(self._root / f"masks/{number:05}.png"), mask)

    def request(self) -> Request:
        """Into a new folder each time."""
        self._runs += 1
        pages, clean, masks = (
            str(self._root / name) for name in ("pages", f"clean-{self._runs}", "masks")
        )
        return Request(pages, clean, masks)


def throughput(folders: Folders, count: int, rounds: int, actors: Sequence[int]) -> list[Row]:
    """Pictures a second of the bare network, of `bulk` in process, and on Ray with so many
    actors."""
    # Not in the order of their sizes: each part of a run has some of all.
    heights = np.random.default_rng(0).permutation(np.linspace(LOWEST, HIGHEST, count).astype(int))
    for number, height in enumerate(heights):
        image, mask, _ = strip(int(height), seed=number)
        folders.add(number, image, mask)
    settings = load_settings()
    ways = ["network alone", "in process", *(f"Ray, actors: {number}" for number in actors)]
    clocks: dict[str, list[Clock]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measured in (("network alone", _alone), ("in process", _in_process)):
            # In a process of its own, as Ray's actors are: each has the pages' sizes before it.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                clock = pool.submit(measured, folders.request(), settings).result()
            clocks[way].append(clock)
            print(f"{way}: {clock.rate():.3f} pictures a second", flush=True)
    for number in actors:
        for _ in range(rounds):
            work, plan = prepare(folders.request(), settings)
            clocks[f"Ray, actors: {number}"].append(clock := Clock())
            on_ray.run(plan.tasks, work, settings, "local", number, clock)
            print(f"Ray, actors: {number}: {clock.rate():.3f}", flush=True)
    rates = {way: _median(one.rate() for one in some) for way, some in clocks.items()}
    steady = {way: _median(one.rate(count // 3) for one in some) for way, some in clocks.items()}
    cores = int(machine.describe()["cores"])
    return [
        {
            "section": "throughput",
            "what": way,
            "pictures": count,
            "pictures/s": rates[way],
            "of network alone": rates[way] / rates["network alone"],
            "steady": steady[way],
            "steady, of network alone": steady[way] / steady["network alone"],
            "pictures a core-hour": rates[way] * 3600 / cores,
        }
        for way in ways
    ]


def _alone(request: Request, settings: Settings) -> Clock:
    settle_memory()
    work, plan = prepare(request, settings)
    items = list(map(Decoder(work), plan.tasks))
    filler = Filler(load_inpainter(settings, work.region))
    clock = Clock()
    for item in items:
        filler([item])
        clock(item.task.name, None)
    return clock


def _in_process(request: Request, settings: Settings) -> Clock:
    settle_memory()
    work, plan = prepare(request, settings)
    filler = Filler(load_inpainter(settings, work.region))
    clock = Clock()
    Line(Decoder(work), filler, Encoder(work), clock).run(plan.tasks)
    return clock


def memory(folders: Folders, count: int) -> list[Row]:
    """What the process holds after each quarter of pictures of as many sizes."""
    rng = np.random.default_rng(0)
    sides = range(SHORTEST, LONGEST)
    sizes = rng.permutation([(height, width) for height in sides for width in sides])[:count]
    for number, (height, width) in enumerate(sizes):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 : width // 2] = 255
        folders.add(number, cv2.GaussianBlur(image, (9, 9), 0), mask)
    gc.collect()
    clock = _in_process(folders.request(), load_settings())
    return [
        {
            "section": "memory",
            "what": f"{share} % of {count}",
            "resident MiB": clock.resident[count * share // 100 - 1] / 2**20,
        }
        for share in (10, 25, 50, 75, 100)
    ]


def long_strip(folders: Folders) -> list[Row]:
    """Peak memory of the command, for one very long page."""
    image, mask, _ = strip(STRIP_ROWS)
    folders.add(0, image, mask)
    request = folders.request()
    places = [request.source, request.output, "--masks", request.masks]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", machine.MEASURED_WORKER, "bulk", *places],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return [
        {
            "section": "strip",
            "what": "×".join(map(str, mask.shape)),
            "holes": float((mask > 0).mean()),
            "peak MB": int(done.stdout.split()[0]) / 1e6,
            "s": time.perf_counter() - began,
        }
    ]


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def main() -> None:
    """Measure the sections."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "sections",
        nargs="*",
        default=list(SECTIONS),
        metavar="SECTION",
        help=f"of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--pages", type=int, default=40, help="of throughput")
    parser.add_argument("--pictures", type=int, default=1000, help="of memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--actors",
        type=int,
        nargs="*",
        default=[1, os.cpu_count() or 1],
        help="with how many on Ray (%(default)s)",
    )
    add_output_argument(parser, "bulk")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(unknown)}")
    settle_memory()
    report = Report("bulk", ("section", "what"), options.json)
    for section in options.sections:
        with tempfile.TemporaryDirectory() as root:
            folders = Folders(Path(root))
            if section == "memory":
                rows = memory(folders, options.pictures)
            elif section == "strip":
                rows = long_strip(folders)
            else:
                rows = throughput(folders, options.pages, options.rounds, options.actors)
        for row in rows:
            report.add(**row)
        print(f"\n{table(rows)}", flush=True)
    print(f"\nwritten to {report.write()}")


if __name__ == "__main__":
    main()
