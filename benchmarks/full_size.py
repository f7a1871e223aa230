"""What a letterbox costs against a page that is sent at full size: time, and quality by height.

Pages 860 wide are filled in four ways and compared at their own size:

- letterboxed, as the pipeline sends them, all of the canvas computed (INPAINT_REGION=full);
- the same with `original_shm_info`, which keeps the pixels outside the holes;
- the same with INPAINT_REGION=mask;
- at full size with INPAINT_REGION=mask.

    python -m benchmarks.full_size --rounds 3
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.layouts import WIDTH, strip
from benchmarks.region import Filler, decibels
from benchmarks.report import Report, add_output_argument, table
from benchmarks.timing import alternate
from core.client import prepare, suitable_kind
from core.machine import keep_freed_memory
from lama.padding import restore_from_padding
from lama.regions import Region, inpaint

#: Heights of the pages, pixels.
HEIGHTS: Final = (600, 1200, 2000, 3000, 4000)


@dataclass(frozen=True)
class Page:
    """A page at its own size: RGB with text, mask of 0 and 255, RGB without text."""

    lettered: np.ndarray
    mask: np.ndarray
    clean: np.ndarray


Way = Callable[[Filler, Page], np.ndarray]


def letterboxed(filler: Filler, page: Page, region: Region, *, original: bool) -> np.ndarray:
    """The page as it comes back from its canvas, RGB; `original` keeps it outside the holes."""
    kind = suitable_kind(*page.mask.shape)
    sent = prepare(np.ascontiguousarray(page.lettered[..., ::-1]), page.mask, kind)
    (filled,) = inpaint(filler, [sent.image], [sent.mask], region, [sent.padding])
    result = restore_from_padding(filled, sent.padding, sent.original_size)
    if original:
        hole = restore_from_padding(sent.mask, sent.padding, sent.original_size)
        result = np.where((hole > 0)[..., None], result, page.lettered)
    return result


def at_full_size(filler: Filler, page: Page, region: Region) -> np.ndarray:
    """The page filled as it is, RGB."""
    (filled,) = inpaint(filler, [page.lettered], [page.mask], region)
    return filled


WAYS: Final[dict[str, Way]] = {
    "letterbox, full": partial(letterboxed, region="full", original=False),
    "letterbox with original, full": partial(letterboxed, region="full", original=True),
    "letterbox with original, mask": partial(letterboxed, region="mask", original=True),
    "full size, mask": partial(at_full_size, region="mask"),
}


def compare(filler: Filler, height: int, count: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each way at one height of page."""
    pages = [Page(*strip(height, seed)) for seed in range(count)]
    timings = alternate(
        {name: partial(_all, way, filler, pages) for name, way in WAYS.items()}, rounds
    )
    rows = []
    for name, way in WAYS.items():
        inside, outside, changed = [], [], []
        for page in pages:
            result, hole = way(filler, page), page.mask > 0
            inside.append(decibels(_error(result, page.clean, hole)))
            outside.append(decibels(_error(result, page.lettered, ~hole)))
            changed.append(float(np.mean((result != page.lettered).any(axis=2)[~hole])))
        rows.append(
            {
                "size": f"{WIDTH}×{height}",
                "way": name,
                "s a page": timings.median(name) / count,
                "times letterbox, full": timings.ratio(name, "letterbox, full"),
                "PSNR in the holes, dB": float(np.mean(inside)),
                "PSNR outside, dB": float(np.mean(outside)),
                "changed outside": float(np.mean(changed)),
            }
        )
    return rows


def _all(way: Way, filler: Filler, pages: Sequence[Page]) -> None:
    for page in pages:
        way(filler, page)


def _error(result: np.ndarray, wanted: np.ndarray, where: np.ndarray) -> float:
    """Mean square over these pixels, of values from 0 to 1."""
    return float(np.mean(np.square(cv2.absdiff(result, wanted)[where] / 255.0)))


def main() -> None:
    """Compare the ways at each height."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--pages", type=int, default=3, help="pages of each height (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--heights", type=int, nargs="+", default=HEIGHTS)
    add_output_argument(parser, "full-size")
    options = parser.parse_args()
    keep_freed_memory()
    filler = Filler()
    report = Report("full-size", ("size", "way"), options.json)
    for height in options.heights:
        rows = compare(filler, height, options.pages, options.rounds)
        for row in rows:
            report.add(**row)
        print(f"\n{table(rows)}", flush=True)
    print(f"\nwritten to {report.write()}")


if __name__ == "__main__":
    main()
