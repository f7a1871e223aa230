"""Whole pictures on a device: regions, refinement and bulk, with the included weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks import bulk as folders
from benchmarks import refine, subjects
from benchmarks.gpu.scale import Row, Scale, wait
from benchmarks.region import Filler, compare
from core.config import load_settings
from core.keys import Kind
from lama.inpainter import Inpainter

#: The columns that a machine's price does not change.
_COLUMNS: Final = ("canvas", "region", "shown", "sizes", "s a picture", "times full", "PSNR dB")


def regions(scale: Scale) -> Iterator[Row]:
    """INPAINT_REGION: each region on the same pages."""
    for kind in Kind if scale.device == "cuda" else (Kind.SHORT,):
        for row in compare(Filler(), kind, scale.pages, scale.rounds, cents=4.0):
            yield {name: row[name] for name in _COLUMNS}


def refinement(scale: Scale) -> Iterator[Row]:
    """One picture with a large hole, filled in the normal way and refined."""
    settings = load_settings()
    inpainter = Inpainter(
        settings.lama_config_path,
        settings.lama_checkpoint_path,
        use_cuda=bool(settings.use_cuda),
        use_fp16=settings.use_fp16,
        refine=True,
    )
    side = max(scale.side, 256)
    (image,) = subjects.pictures(1, side, side)
    mask = refine.square(image, side * 2 // 5, seed=0)
    assert mask is not None
    for name, fill in (("normal", inpainter.infer), ("refined", inpainter.fill)):
        for run in ("first", "second"):
            began = time.perf_counter()
            fill([image], [mask])
            wait(scale.device)
            yield {"side": side, "way": name, "run": run, "s": time.perf_counter() - began}


def bulk(scale: Scale) -> Iterator[Row]:
    """A folder of pages, against the same pages through the network alone."""
    with tempfile.TemporaryDirectory() as root:
        count = max(3, 5 * scale.pages)
        yield from folders.throughput(folders.Folders(Path(root)), count, 1, ())
