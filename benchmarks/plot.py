"""Draws what `benchmarks.model` measured: time against pixels, throughput against batch size."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.report import RESULTS

mpl.use("svg")
from matplotlib import pyplot

Row = dict[str, Any]
Points = dict[str, list[tuple[float, float]]]


def main() -> None:
    """Write both plots beside the rows: of model-NAME.json, time-NAME.svg and batches-NAME.svg."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS / "model.json")
    parser.add_argument("--network", default="lama-fourier")
    parser.add_argument("--threads", type=int, default=2, help="rows with so many")
    options = parser.parse_args()
    rows = [
        row
        for row in json.loads(options.json.read_text())["rows"]
        if row["network"] == options.network
        and row["threads"] == options.threads
        and row["mask"] == "blocks"
        and not row["keep_memory"]
    ]
    folder, machine = options.json.parent, options.json.stem.removeprefix("model")
    sizes = _points([row for row in rows if row["batch"] == 1], megapixels, lambda r: r["seconds"])
    _draw(folder / f"time{machine}.svg", sizes, ("megapixels", "seconds"), straight=True)
    batches = _points(
        [row for row in rows if row["size"] == "512x512"],
        lambda r: float(r["batch"]),
        lambda r: r["batch"] / r["seconds"],
    )
    if batches:
        path = folder / f"batches{machine}.svg"
        _draw(path, batches, ("batch size, 512×512", "pictures per second"))


def megapixels(row: Row) -> float:
    """Of one picture; 2**20 pixels count as one."""
    height, width = row["size"].split("x")
    return int(height) * int(width) / 2**20


def _points(rows: Sequence[Row], x: Callable[[Row], float], y: Callable[[Row], float]) -> Points:
    points: Points = defaultdict(list)
    for row in rows:
        points[row["competitor"]].append((x(row), y(row)))
    return {name: sorted(found) for name, found in points.items() if len(found) > 1}


def _draw(path: Path, points: Points, labels: tuple[str, str], straight: bool = False) -> None:
    """One line per competitor; `straight`: what doubles with the pixels is a line of slope 1."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, found in points.items():
        axes.plot(*zip(*found, strict=True), marker="o", label=name)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    if straight:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if points:
        axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
