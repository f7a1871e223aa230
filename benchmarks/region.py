"""What INPAINT_REGION gains and costs on product pages: time, quality, and money.

Pages 860 wide are drawn, lettered and letterboxed into both canvases; each region fills the same
pages with the shipped weights. A section `strip` fills a page of 20,000 rows by windows, and
compares the memory with that for one window.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, get_args

import numpy as np
import torch

from benchmarks import machine
from benchmarks.layouts import Layout, layouts, strip
from benchmarks.report import Report, add_output_argument, table
from benchmarks.timing import alternate
from core.config import load_settings
from core.keys import Kind
from core.machine import keep_freed_memory
from lama.inference import batch_inference, load_lama_model
from lama.regions import Region, inpaint
from lama.regions.windows import LONGEST_SIDE

REGIONS: tuple[Region, ...] = get_args(Region)

#: dB: a perfect fill has no finite PSNR, and a few of those would decide the mean.
CAP: Final = 60.0

#: What a picture may cost in the whole pipeline, and that in US cents.
CEILING_WON, CEILING_CENTS = 0.3, 0.02

STRIP_ROWS: Final = 20_000


class Filler:
    """The configured network as a function of pictures and masks; counts the pixels it is shown."""

    def __init__(self) -> None:
        settings = load_settings()
        self.device = "cuda" if settings.use_cuda and torch.cuda.is_available() else "cpu"
        self._half = settings.use_fp16
        self._model, self._config = load_lama_model(
            settings.lama_config_path, settings.lama_checkpoint_path, self.device
        )
        self.pixels = 0
        self.sizes: set[tuple[int, ...]] = set()

    def __call__(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        self.pixels += sum(mask.size for mask in masks)
        self.sizes.update(mask.shape for mask in masks)
        return batch_inference(images, masks, self._model, self._config, self.device, self._half)

    def run(self, pages: Sequence[Layout], region: Region, batch: int) -> list[np.ndarray]:
        """The filled pages, computed in batches as the worker does."""
        filled: list[np.ndarray] = []
        for first in range(0, len(pages), batch):
            sent = [page.prepared for page in pages[first : first + batch]]
            filled += inpaint(
                self,
                [one.image for one in sent],
                [one.mask for one in sent],
                region,
                [one.padding for one in sent],
            )
        return filled


def compare(
    filler: Filler, kind: Kind, count: int, rounds: int, cents: float
) -> list[dict[str, Any]]:
    """A row for each region on the canvas of a kind."""
    pages = layouts(kind, count)
    batch = 4
    timings = alternate(
        {region: partial(filler.run, pages, region, batch) for region in REGIONS}, rounds
    )
    cores = 1 if filler.device == "cuda" else torch.get_num_threads()
    rows = []
    for region in REGIONS:
        filler.pixels = 0
        filler.sizes.clear()
        filled = filler.run(pages, region, batch)
        errors = [
            float(np.mean(np.square((one.astype(float) - page.clean)[page.measured] / 255)))
            for one, page in zip(filled, pages, strict=True)
        ]
        seconds = timings.median(region) / count
        an_hour = 3600 / (seconds * cores)
        rows.append(
            {
                "canvas": "×".join(map(str, pages[0].prepared.mask.shape)),
                "region": region,
                "shown": filler.pixels / sum(page.clean[..., 0].size for page in pages),
                "sizes": len(filler.sizes),
                "s a picture": seconds,
                "times full": timings.ratio(region, "full"),
                "PSNR dB": float(np.mean([decibels(error) for error in errors])),
                "pooled dB": decibels(float(np.mean(errors))),
                f"pictures a {'GPU' if filler.device == 'cuda' else 'core'}-hour": an_hour,
                f"won at {cents:g} ¢": cents / an_hour * CEILING_WON / CEILING_CENTS,
            }
        )
    return rows


def compare_strip(filler: Filler) -> list[dict[str, Any]]:
    """Peak memory above the loaded network's: for one window of the largest size, and a strip."""
    lettered, mask, clean = strip(STRIP_ROWS)
    window = (lettered[:LONGEST_SIDE], mask[:LONGEST_SIDE])
    small = np.s_[:64, :64]
    filler([lettered[small]], [np.full((64, 64), 255, np.uint8)])  # what the first always costs
    gc.collect()
    before = machine.resident_bytes()
    rows = []
    for name, image, hole in (("one window", *window), ("strip", lettered, mask)):
        machine.reset_peak()
        filler.pixels = 0
        # The window as it is: regions would find less to do in it.
        (filled,) = (
            filler([image], [hole])
            if name == "one window"
            else inpaint(filler, [image], [hole], "mask")
        )
        peak = machine.peak_bytes() - before
        own = hole > 0
        error = np.mean(np.square((filled[own].astype(float) - clean[: len(hole)][own]) / 255))
        rows.append(
            {
                "what": name,
                "size": "×".join(map(str, hole.shape)),
                "shown": filler.pixels / hole.size,
                "peak MB": peak / 1e6,
                "of it picture, mask, result MB": 7 * hole.size / 1e6,
                "PSNR dB": decibels(float(error)),
            }
        )
    return rows


def main() -> None:
    """Compare the regions on both canvases."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "sections",
        nargs="*",
        default=["short", "long", "strip"],
        metavar="SECTION",
        help="of short, long and strip",
    )
    parser.add_argument("--pages", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--cents", type=float, default=4.0, help="US cents that a core-hour costs (%(default)s)"
    )
    add_output_argument(parser, "region")
    options = parser.parse_args()
    if unknown := set(options.sections) - {*Kind, "strip"}:
        parser.error(f"no such section: {', '.join(unknown)}")
    if "strip" not in options.sections:  # whose memory would not be told from what was freed
        keep_freed_memory()
    filler = Filler()
    report = Report("region", ("canvas", "region", "what"), options.json)
    for section in options.sections:
        if section == "strip":
            rows = compare_strip(filler)
        else:
            kind = Kind(section)
            rows = compare(filler, kind, options.pages, options.rounds, options.cents)
        for row in rows:
            report.add(**row)
        print(f"\n{section}\n\n{table(rows)}", flush=True)
    print(f"\nwritten to {report.write()}")


def decibels(error: float) -> float:
    """PSNR of a mean square error of values from 0 to 1, at most CAP."""
    return float(min(CAP, -10 * np.log10(max(error, 1e-12))))


if __name__ == "__main__":
    main()
