"""The report of a comparison: scores as a table, Markdown and JSON, pictures as a sheet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from lama.evaluation.methods import BIHARMONIC_MOST
from lama.evaluation.metrics import CAP, SEAM, decibels

#: The width of one picture on the sheet and the height of its heading, pixels.
_TILE, _HEAD = 256, 22


@dataclass(frozen=True)
class Score:
    """The scores of one method on one sample."""

    name: str
    size: tuple[int, int]
    kind: str
    method: str
    squared_error: float
    ssim: float
    seconds: float


def rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Means for each size, kind and method, in order of appearance.

    `psnr` is the mean of the pictures' PSNR, `psnr_pooled` the PSNR of their mean squared error:
    the first weighs easy pictures more, the second hard ones.
    """
    groups: dict[tuple[tuple[int, int], str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[score.size, score.kind, score.method].append(score)
    return [
        {
            "size": f"{size[0]}x{size[1]}",
            "kind": kind,
            "method": method,
            "pictures": len(group),
            "psnr": float(np.mean([decibels(score.squared_error) for score in group])),
            "psnr_pooled": decibels(float(np.mean([score.squared_error for score in group]))),
            "ssim": float(np.mean([score.ssim for score in group])),
            "seconds": float(np.mean([score.seconds for score in group])),
        }
        for (size, kind, method), group in groups.items()
    ]


def markdown(table: Sequence[dict[str, Any]], seed: int) -> str:
    """One table for each size and kind of hole."""
    text = [
        "# Fills compared",
        "",
        f"Holes from seed {seed}. PSNR (dB) over the hole, each picture's at most {CAP:g}: mean"
        " over pictures, and of the pooled squared error. SSIM over the hole grown by"
        f" {SEAM} pixels. Seconds for one picture."
        f" Biharmonic is solved for holes of at most {BIHARMONIC_MOST} pixels: where it has fewer"
        " pictures than the others, its numbers are of an easier set and don't compare.",
    ]
    previous = None
    for row in table:
        if (row["size"], row["kind"]) != previous:
            previous = (row["size"], row["kind"])
            text += [
                "",
                f"## {row['size']}, {row['kind']}",
                "",
                "| method | pictures | PSNR | pooled PSNR | SSIM | s |",
                "| --- | --- | --- | --- | --- | --- |",
            ]
        text.append(
            f"| {row['method']} | {row['pictures']} | {row['psnr']:.2f} | "
            f"{row['psnr_pooled']:.2f} | {row['ssim']:.4f} | {row['seconds']:.2f} |"
        )
    return "\n".join(text) + "\n"


def strip(titles: Sequence[str], pictures: Sequence[np.ndarray | None]) -> np.ndarray:
    """One row of the sheet, RGB uint8; a method without a result is grey."""
    first = next(picture for picture in pictures if picture is not None)
    height = max(1, round(_TILE * first.shape[0] / first.shape[1]))
    tiles = []
    for title, picture in zip(titles, pictures, strict=True):
        tile = np.full((height + _HEAD, _TILE, 3), 255, np.uint8)
        tile[_HEAD:] = 128
        if picture is not None:
            tile[_HEAD:] = cv2.resize(picture, (_TILE, height), interpolation=cv2.INTER_AREA)
        cv2.putText(tile, title[-34:], (3, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1)
        tiles.append(tile)
    return np.hstack(tiles)
