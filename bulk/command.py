"""`bulk`: inpaints folders of pictures, without a queue."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from core.commands.common import add_command, print_json
from core.config import load_settings
from core.errors import WorkerError
from core.network import settle_memory
from core.telemetry.logs import printable

FORMATS = {name.lower(): name for name in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP")}


class BulkMissing(WorkerError):
    """A package that bulk needs is not installed."""


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "bulk",
        "fill the holes of whole folders of pictures, without a queue",
        "bulk pages/ clean/ --masks masks/\nbulk pages/ clean/ --masks watermark.png --dry-run\n"
        "bulk pages/ clean/ --boxes text.jsonl --format webp\nbulk pages.parquet clean/\n"
        "bulk s3://shop/pages s3://shop/clean --masks s3://shop/masks --ray auto",
        command,
    )
    parser.add_argument("input", metavar="INPUT", help="folder, picture, Parquet file, or URL")
    parser.add_argument("output", metavar="OUTPUT", help="folder or URL for the results")
    holes = parser.add_mutually_exclusive_group()
    holes.add_argument(
        "--masks", help="masks with the pictures' names, or one file for all pictures"
    )
    holes.add_argument(
        "--boxes",
        metavar="FILE",
        help='lines of {"image": NAME, "boxes": [[[x, y], …], …]}',
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the results; default: each picture's own"
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run on Ray: of this machine, or the cluster at ADDRESS (auto: the one running here)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of networks on Ray; default: one per GPU or core",
    )
    parser.add_argument(
        "--refine", action="store_true", help="refine large holes, like REFINE=1; slower"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="count and estimate, but write nothing"
    )


def command(options: argparse.Namespace) -> int:
    """Run; returns 0 if every picture is done, 1 if some failed or none had a hole."""
    try:
        from bulk.errors import BulkRefused
        from bulk.run import Request, estimate, run
    except ModuleNotFoundError as error:
        raise BulkMissing(
            f"bulk needs {error.name}: pip install -r base_requirements.txt"
        ) from error
    if options.workers is not None and (options.workers < 1 or options.ray is None):
        raise BulkRefused(f"--workers is {options.workers}: must be a number ≥ 1, and needs --ray")
    for name, given in (("--masks", options.masks), ("--boxes", options.boxes)):
        if given == "":
            raise BulkRefused(f"{name} is empty: name a file or folder, or leave it out")
    settle_memory()
    request = Request(
        source=options.input,
        output=options.output,
        masks=options.masks or "",
        boxes=options.boxes or "",
        form=FORMATS.get(options.format, ""),
        ray=options.ray,
        workers=options.workers or 0,
    )
    settings = load_settings()
    if options.refine:
        settings = settings.model_copy(update={"refine": True})
    if options.dry_run:
        estimated = estimate(request, settings)
        if options.json:
            print_json(estimated)
        else:
            refused = estimated.pop("refused")
            for name, value in estimated.items():
                shown = f"{value:.2f}" if isinstance(value, float) else value
                print(f"{name.replace('_', ' '):<22}{shown}")
            for name, why in refused.items():
                print(printable(f"{name}: {why}"), file=sys.stderr)
            print(f"{'cannot be done':<22}{len(refused)}")
        return 0
    counts = run(request, settings)
    if options.json:
        print_json(
            {
                "done": counts.done,
                "without_hole": counts.without_hole,
                "there": counts.there,
                "failed": counts.failed,
                "reasons": counts.reasons,
                "remarks": counts.remarks,
            }
        )
    return 1 if counts.failed or counts.nothing_erased else 0
