"""Whole pictures on a device: regions, refinement and bulk, with the included weights."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks import refine, subjects
from benchmarks.bulk import Folders
from benchmarks.gpu.scale import Row, Scale, wait
from benchmarks.layouts import Layout, layouts
from benchmarks.region import REGIONS
from benchmarks.timing import alternate
from core.config import PROJECT_ROOT, load_settings
from core.keys import Kind
from core.network import full_batches
from lama.inpainter import Inpainter
from lama.launched import Arriving, Shown
from lama.regions import Region

#: Each page of `bulk` is there so many times, as drawing one takes longer than filling it.
COPIES: Final = 25


def regions(scale: Scale) -> Iterator[Row]:
    """INPAINT_REGION: each region on the same pages, from arrays to arrays."""
    on_gpu = scale.device == "cuda"
    chosen: tuple[Region, ...] = REGIONS if on_gpu else ("mask",)
    inpainters = {region: _inpainter(region=region) for region in chosen}
    for one in inpainters.values():
        _await_staging(one, scale)
    for kind in Kind if on_gpu else (Kind.SHORT,):
        pages = layouts(kind, scale.pages)
        acts: dict[str, Callable[[], None]] = {
            region: _filling(one, pages) for region, one in inpainters.items()
        }
        acts |= {
            f"{region}, staged": _staged(one, pages)
            for region, one in inpainters.items()
            if one.staging is not None
        }
        ends = time.perf_counter() + scale.ready_s / 2
        while time.perf_counter() < ends:
            for act in acts.values():
                act()
        timings = alternate(acts, scale.rounds, warm_up=int(on_gpu))
        for region in acts:
            yield {
                "canvas": "×".join(map(str, pages[0].prepared.mask.shape)),
                "region": region,
                "ms a picture": timings.median(region) / len(pages) * 1000,
                "times full": timings.ratio(region, chosen[0]),
            }


def _await_staging(inpainter: Inpainter, scale: Scale) -> None:
    """Until the first graph is recorded."""
    ends = time.perf_counter() + scale.ready_s / 2
    while inpainter.staging is None and time.perf_counter() < ends:
        time.sleep(0.05)


def _inpainter(*, region: Region = "full", refined: bool = False) -> Inpainter:
    settings = load_settings()
    inpainter = Inpainter(
        settings.lama_config_path,
        settings.lama_checkpoint_path,
        use_cuda=bool(settings.use_cuda),
        use_fp16=settings.use_fp16,
        region=region,
        refine=refined,
    )
    inpainter.prepare(full_batches(settings.batch_sizes))
    return inpainter


def _filling(inpainter: Inpainter, pages: list[Layout]) -> Callable[[], None]:
    """Fills the pages in batches of four, as the worker does."""

    def fill() -> None:
        for first in range(0, len(pages), 4):
            sent = [page.prepared for page in pages[first : first + 4]]
            inpainter.fill(
                [one.image for one in sent],
                [one.mask for one in sent],
                [one.padding for one in sent],
            )

    return fill


def _staged(inpainter: Inpainter, pages: list[Layout]) -> Callable[[], None]:
    """The same with copies to the device and back beside it, as the worker does."""

    def fill() -> None:
        arriving: list[Arriving] = []
        for first in range(0, len(pages), 4):
            batch = [_shown(inpainter, page) for page in pages[first : first + 4]]
            arriving += inpainter.fill_staged([shown for shown in batch if shown is not None])
        for picture in arriving:
            picture.result()

    return fill


def _shown(inpainter: Inpainter, page: Layout) -> Shown | None:
    staging, sent = inpainter.staging, page.prepared
    assert staging is not None
    image, mask = staging.place(sent.image.shape), staging.place(sent.mask.shape)
    image[...], mask[...] = sent.image, sent.mask
    return staging.stage(image, mask, sent.padding, sent.original_size)


def refinement(scale: Scale) -> Iterator[Row]:
    """One picture with a large hole, filled in the normal way and refined."""
    inpainter = _inpainter(refined=True)
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
    """A folder of pages through the command, with the start of its process."""
    copies = COPIES if scale.device == "cuda" else 1
    with tempfile.TemporaryDirectory() as root:
        folders = Folders(Path(root))
        for number, page in enumerate(layouts(Kind.SHORT, scale.pages)):
            for copy in range(copies):
                sent = page.prepared
                folders.add(copies * number + copy, sent.image, sent.mask)
        request = folders.request()
        began = time.perf_counter()
        places = [request.source, request.output, "--masks", str(request.masks)]
        done = subprocess.run(
            [sys.executable, "worker.py", "bulk", *places, "--json"],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
        taken = time.perf_counter() - began
    pages = copies * scale.pages
    yield {"pictures": pages, "s with its start": taken, "pictures/s": pages / taken}
    said = json.loads(done.stdout)
    yield {name: said[name] for name in ("done", "failed")}
