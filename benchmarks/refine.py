"""What REFINE gains and costs: fills of large holes against the original, seconds, memory.

Pictures of a folder are resized to each number of megapixels (one that is smaller is enlarged, and
so has less detail than its size promises) and get one square hole each. Three ways fill it: the
normal one; `enlarged`, which fills the picture at half its size and enlarges the fill, and is what
refinement has to be better than to be worth its time; and the refined one.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch

from benchmarks import machine
from benchmarks.report import Report, add_output_argument, table
from core.config import load_settings
from lama.evaluation.metrics import decibels, squared_error, ssim
from lama.inference import batch_inference, load_lama_model
from lama.refinement import Budget, Refiner
from lama.regions import Fill
from lama.training.data.pictures import picture_files

#: Pixels about the hole that SSIM is computed of.
AROUND: Final = 64

#: Pixels between the hole and the picture's edge, at least.
FROM_EDGE: Final = 64


def load(folder: Path, count: int) -> list[np.ndarray]:
    """RGB uint8 pictures, spread evenly over the folder's in their order."""
    paths = picture_files(folder)
    chosen = [paths[i * len(paths) // count] for i in range(min(count, len(paths)))]
    read = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in chosen]
    return [picture for picture in read if picture is not None]


def resized(picture: np.ndarray, megapixels: float) -> np.ndarray:
    """The picture with so many megapixels, give or take a row."""
    scale = float(np.sqrt(megapixels * 1e6 / picture[..., 0].size))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=way)


def square(picture: np.ndarray, side: int, seed: int) -> np.ndarray | None:
    """uint8 H×W: a hole of side×side somewhere; None where it has no room."""
    height, width = picture.shape[:2]
    if min(height, width) < side + 2 * FROM_EDGE:
        return None
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(FROM_EDGE, n - side - FROM_EDGE + 1)) for n in (height, width))
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + side, left : left + side] = 255
    return mask


def enlarging(fill: Fill) -> Fill:
    """Fills at half the size."""

    def enlarged(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        results = []
        for image, mask in zip(images, masks, strict=True):
            height, width = mask.shape
            size = width // 2, height // 2
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            hole = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
            (filled,) = fill([small], [hole])
            large = cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)
            results.append(np.where((mask > 0)[..., None], large, image))
        return results

    return enlarged


def measure(fill: Fill, picture: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """One fill: its figures, and peak memory above what the process held before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is needed now
    machine.reset_peak()
    before, began = machine.resident_bytes(), time.perf_counter()
    (filled,) = fill([picture], [mask])
    seconds = time.perf_counter() - began
    hole = mask > 0
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    near = tuple(slice(max(0, i[0] - AROUND), i[-1] + 1 + AROUND) for i in (rows, columns))
    return {
        "error": squared_error(filled, picture, hole),
        "ssim": ssim(filled[near], picture[near], hole[near]),
        "seconds": seconds,
        "bytes": machine.peak_bytes() - before,
    }


def compare(
    ways: dict[str, Fill], pictures: Sequence[np.ndarray], megapixels: float, side: int
) -> list[dict[str, Any]]:
    """A row for each way; none where no picture has room for the hole."""
    scenes = []
    for number, picture in enumerate(pictures):
        sized = resized(picture, megapixels)
        mask = square(sized, side, number)
        if mask is not None:
            scenes.append((sized, mask))
    if not scenes:
        return []
    found = {name: [measure(fill, *scene) for scene in scenes] for name, fill in ways.items()}
    usual_s = float(np.median([one["seconds"] for one in found["normal"]]))
    return [
        {
            "megapixels": megapixels,
            "hole": side,
            "pictures": len(scenes),
            "way": name,
            "PSNR dB": float(np.mean([decibels(one["error"]) for one in rows])),
            "SSIM": float(np.mean([one["ssim"] for one in rows])),
            "s a picture": float(np.median([one["seconds"] for one in rows])),
            "times as long": float(np.median([one["seconds"] for one in rows])) / usual_s,
            "peak MB": max(one["bytes"] for one in rows) / 1e6,
        }
        for name, rows in found.items()
    ]


def main() -> None:
    """Compare the ways on each size of picture and hole."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("pictures", type=Path, help="a folder of pictures without text or holes")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--holes", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--count", type=int, default=8, help="pictures (%(default)s)")
    parser.add_argument("--threads", type=int, help="of torch; by default as many as it takes")
    defaults = Budget()
    parser.add_argument("--iterations", type=int, default=defaults.iterations)
    parser.add_argument("--rear-blocks", type=int, default=defaults.rear_blocks)
    parser.add_argument("--smallest-side", type=int, default=defaults.smallest_side)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    add_output_argument(parser, "refine")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    budget = Budget(
        iterations=options.iterations,
        rear_blocks=options.rear_blocks,
        smallest_side=options.smallest_side,
        learning_rate=options.learning_rate,
    )
    ways = _ways(budget)
    report = Report("refine", ("megapixels", "hole", "way", "command"), options.json)
    pictures = load(options.pictures, options.count)
    for megapixels in options.megapixels:
        rows = [row for side in options.holes for row in compare(ways, pictures, megapixels, side)]
        for row in rows:
            report.add(**row)
        print(f"\n{megapixels:g} megapixels\n\n{table(rows)}", flush=True)
        written = report.write()  # what an interrupted run has measured is kept
    print(f"\nwritten to {written}")


def _ways(budget: Budget) -> dict[str, Callable[..., Any]]:
    settings = load_settings()
    device = "cuda" if settings.use_cuda and torch.cuda.is_available() else "cpu"
    model, config = load_lama_model(
        settings.lama_config_path, settings.lama_checkpoint_path, device
    )

    def fill(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        return batch_inference(images, masks, model, config, device, settings.use_fp16)

    fill([np.zeros((64, 64, 3), np.uint8)], [np.full((64, 64), 255, np.uint8)])
    refiner = Refiner(model, device, use_fp16=settings.use_fp16, budget=budget)
    return {"normal": fill, "enlarged": enlarging(fill), "refined": refiner.fill}


if __name__ == "__main__":
    main()
