"""Compares fills: `python -m lama.bin.evaluate IMAGES --checkpoint A --checkpoint B`.

Fixed holes over the pictures of a folder, filled by OpenCV's and scikit-image's methods and by
each checkpoint. Writes table.md, table.json and sheet.png (original, masked, each method).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from lama.evaluation.methods import CLASSICAL, Method, checkpoint_method
from lama.evaluation.metrics import squared_error, ssim
from lama.evaluation.report import Score, markdown, rows, strip
from lama.evaluation.samples import KINDS, SIZES, Sample, samples
from lama.saicinpainting.training.trainers.errors import CheckpointError
from lama.training.data.pictures import picture_files


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: HEIGHTxWIDTH, e.g. 864x1504") from None
    return height, width


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lama.bin.evaluate", description="Compares methods of filling holes."
    )
    parser.add_argument("images", help="folder of pictures")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        type=Path,
        help="weights to compare; may be given several times",
    )
    parser.add_argument("--config", type=Path, help="if it isn't beside the checkpoints")
    parser.add_argument(
        "--methods",
        nargs="*",
        choices=list(CLASSICAL),
        default=list(CLASSICAL),
        help="methods without a network; all by default, none if no name follows",
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of holes"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=_size,
        default=list(SIZES),
        metavar="HxW",
        help="canvases, height first, e.g. 864x1504",
    )
    parser.add_argument("--pictures", type=int, help="only so many, spread over the folder")
    parser.add_argument("--seed", type=int, default=0, help="of the holes (%(default)s)")
    parser.add_argument("--rows", type=int, default=24, help="of the sheet (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/evaluation"), help="folder to write to (%(default)s)"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="of the networks (here %(default)s)",
    )
    parser.add_argument("--half", action="store_true", help="networks in half precision")
    parser.add_argument("--threads", type=int, help="processor threads (as many as torch takes)")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    try:
        options.out.mkdir(parents=True, exist_ok=True)  # before the work, which would be lost
        files = spread(picture_files(options.images), options.pictures)
        methods = {name: CLASSICAL[name] for name in options.methods}
        for path in options.checkpoint:
            methods[_title(path, options.checkpoint)] = checkpoint_method(
                path, options.config, options.device, options.half
            )
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    scores: list[Score] = []
    strips: list[np.ndarray] = []
    total = len(files) * len(options.sizes) * len(options.kinds)
    wanted = set(np.linspace(0, total - 1, min(total, options.rows)).astype(int).tolist())
    for number, sample in enumerate(samples(files, options.sizes, options.kinds, options.seed)):
        found, fills = compare(sample, methods)
        scores += found
        if number in wanted:
            masked = sample.picture.copy()
            masked[sample.hole] = (255, 0, 255)
            titles = [f"{sample.name} {sample.kind}", "masked", *fills]
            strips.append(strip(titles, [sample.picture, masked, *fills.values()]))
        print(f"\r{number + 1}/{total} {sample.name:40.40}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    table = sorted(rows(scores), key=lambda row: (row["size"], row["kind"]))
    text = markdown(table, options.seed)
    (options.out / "table.md").write_text(text)
    (options.out / "table.json").write_text(
        json.dumps({"seed": options.seed, "files": [path.name for path in files], "rows": table})
    )
    if strips:
        whole = cv2.cvtColor(np.vstack(strips), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(options.out / "sheet.png"), whole)
    print(text)
    return 0


def compare(
    sample: Sample, methods: dict[str, Method]
) -> tuple[list[Score], dict[str, np.ndarray | None]]:
    """Each method's score on a sample, and its fill. The picture outside the hole is kept."""
    scores: list[Score] = []
    fills: dict[str, np.ndarray | None] = {}
    # The methods do not see the original.
    masked = np.where(sample.hole[..., None], np.uint8(0), sample.picture)
    for name, method in methods.items():
        start = time.perf_counter()
        filled = method(masked, sample.hole)
        seconds = time.perf_counter() - start
        fills[name] = filled
        if filled is not None and sample.measured.any():
            filled = np.where(sample.hole[..., None], filled, sample.picture)
            fills[name] = filled
            error = squared_error(filled, sample.picture, sample.measured)
            likeness = ssim(filled, sample.picture, sample.measured)
            scores.append(
                Score(sample.name, sample.size, sample.kind, name, error, likeness, seconds)
            )
    return scores, fills


def spread(files: list[Path], most: int | None) -> list[Path]:
    """At most `count` files, evenly spread."""
    if not most or most >= len(files):
        return files
    return [files[i] for i in np.linspace(0, len(files) - 1, most).round().astype(int)]


def _title(path: Path, others: list[Path]) -> str:
    """The part of a checkpoint's path that distinguishes it from the others."""
    for parts in range(1, len(path.parts) + 1):
        title = "/".join(path.parts[-parts:])
        if sum("/".join(other.parts[-parts:]) == title for other in others) == 1:
            return title
    return str(path)


if __name__ == "__main__":
    raise SystemExit(main())
