"""Whole folders: pictures a second against the bare network, in process and on Ray; memory.

`throughput` takes product pages 860 wide, as JPEG, through `bulk`; the baseline is the same pages,
decoded already, through the network in a loop. Rates are of the whole run with a network that is
loaded, but for Ray's, which has its start and its actor's in it. `memory` takes pictures that all
have different sizes, and says what the process holds on the way.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks import machine
from benchmarks.layouts import HIGHEST, LOWEST, strip
from benchmarks.report import Report, Row, add_output_argument, table
from bulk import on_ray
from bulk.errors import PictureError
from bulk.local import Line
from bulk.run import Request, prepare
from bulk.stages import Decoder, Encoder, Filler
from core.config import load_settings
from core.memory import settle_memory

#: Pixels: the sides of the pictures of `memory`.
SHORTEST, LONGEST = 100, 420


class Clock:
    """Notes when each picture was done, and how much memory the process held by then."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.times: list[float] = []
        self.resident: list[int] = []

    def __call__(self, name: str, error: PictureError | None) -> None:
        if error is not None:
            raise SystemExit(f"{name}: {error}")
        self.times.append(time.perf_counter())
        self.resident.append(machine.resident_bytes())

    @property
    def rate(self) -> float:
        """Pictures a second, from when this was made until the last was done."""
        return len(self.times) / (self.times[-1] - self.began)


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


def throughput(folders: Folders, count: int, rounds: int, ray: bool) -> list[Row]:
    """Pictures a second of the bare network, of `bulk` in process, and on Ray with one actor."""
    for number in range(count):
        height = LOWEST + (HIGHEST - LOWEST) * number // max(1, count - 1)
        image, mask, _ = strip(height, seed=number)
        folders.add(number, image, mask)
    settings = load_settings()
    work, plan = prepare(folders.request(), settings)
    filler = Filler(settings, work.region)
    decoder = Decoder(work)
    for task in plan.tasks:  # what the first picture of each size always costs
        filler([decoder(task)])
    rates: dict[str, list[float]] = {"network alone": [], "in process": []}
    for _ in range(rounds):
        items = [decoder(task) for task in plan.tasks]
        clock = Clock()
        for item in items:
            filler([item])
            clock(item.task.name, None)
        rates["network alone"].append(clock.rate)
        del items
        work, plan = prepare(folders.request(), settings)
        clock = Clock()
        Line(Decoder(work), filler, Encoder(work), clock).run(plan.tasks)
        rates["in process"].append(clock.rate)
    if ray:
        rates["Ray, one actor, with its start"] = []
        for _ in range(rounds):
            work, plan = prepare(folders.request(), settings)
            clock = Clock()
            on_ray.run(plan.tasks, work, settings, "local", 1, clock)
            rates["Ray, one actor, with its start"].append(clock.rate)
    alone = float(np.median(rates["network alone"]))
    cores = int(machine.describe()["cores"])
    return [
        {
            "section": "throughput",
            "what": what,
            "pictures": count,
            "pictures/s": (median := float(np.median(some))),
            "of network alone": median / alone,
            "pictures a core-hour": median * 3600 / cores,
        }
        for what, some in rates.items()
    ]


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
    settings = load_settings()
    work, plan = prepare(folders.request(), settings)
    gc.collect()
    clock = Clock()
    Line(Decoder(work), Filler(settings, work.region), Encoder(work), clock).run(plan.tasks)
    return [
        {
            "section": "memory",
            "what": f"{share} % of {count}",
            "resident MiB": clock.resident[count * share // 100 - 1] / 2**20,
        }
        for share in (10, 25, 50, 75, 100)
    ]


def main() -> None:
    """Measure both sections."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "sections", nargs="*", default=["throughput", "memory"], metavar="SECTION",
        help="of throughput and memory",
    )  # fmt: skip
    parser.add_argument("--pages", type=int, default=40, help="of throughput")
    parser.add_argument("--pictures", type=int, default=1000, help="of memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ray", action="store_true")
    add_output_argument(parser, "bulk")
    options = parser.parse_args()
    if unknown := set(options.sections) - {"throughput", "memory"}:
        parser.error(f"no such section: {', '.join(unknown)}")
    settle_memory()
    report = Report("bulk", ("section", "what"), options.json)
    for section in options.sections:
        with tempfile.TemporaryDirectory() as root:
            folders = Folders(Path(root))
            if section == "memory":
                rows = memory(folders, options.pictures)
            else:
                rows = throughput(folders, options.pages, options.rounds, not options.no_ray)
        for row in rows:
            report.add(**row)
        print(f"\n{table(rows)}", flush=True)
    print(f"\nwritten to {report.write()}")


if __name__ == "__main__":
    main()
