"""What the demo leaves behind: pictures, the contact sheet, `results.json` and a printed table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from demo.jobs import Outcome
from demo.lettering import Picture
from demo.metrics import Measurements
from demo.sheet import Row, contact_sheet

SHEET, RESULTS = "contact-sheet.png", "results.json"


@dataclass(frozen=True, slots=True)
class Result:
    """A scene's outcome and, if there is a picture, its numbers."""

    outcome: Outcome
    numbers: Measurements | None

    @property
    def problem(self) -> str:
        """What is wrong with it, or ''."""
        name = self.outcome.scene.name
        if self.numbers is None:
            return f"{name}: {self.outcome.error}"
        if not self.numbers.rest_identical:
            return f"{name}: pixels outside the hole differ from the picture that was sent"
        if self.numbers.psnr <= self.numbers.text_psnr:
            return f"{name}: the result is no closer to the clean picture than the text was"
        return ""


def write_pictures(output: Path, result: Result) -> None:
    """Write `NAME-before.png`, `NAME-mask.png` and `NAME-after.png`; raises OSError."""
    scene = result.outcome.scene
    pictures = {"before": scene.before, "mask": scene.mask, "after": result.outcome.after}
    for what, picture in pictures.items():
        path = output / f"{scene.name}-{what}.png"
        path.unlink(missing_ok=True)  # of an earlier run
        if picture is not None:
            write_png(path, picture)


def write_sheet(output: Path, results: Sequence[Result]) -> Path:
    """Write the contact sheet; its path."""
    path = output / SHEET
    write_png(path, contact_sheet([_row(result) for result in results]))
    return path


def write_results(output: Path, results: Sequence[Result], about: dict[str, Any]) -> Path:
    """Write the numbers as JSON (a PSNR of null: nothing differs in the hole); the path."""
    scenes = []
    for result in results:
        scene, numbers = result.outcome.scene, result.numbers
        entry: dict[str, Any] = {
            "picture": scene.name,
            "kind": scene.kind.value,
            "mask": scene.style.value,
            "height": scene.clean.shape[0],
            "width": scene.clean.shape[1],
            "seconds": round(result.outcome.seconds, 3),
            "problem": result.problem,
        }
        if numbers is not None:
            entry |= {name: _for_json(value) for name, value in asdict(numbers).items()}
        scenes.append(entry)
    path = output / RESULTS
    path.write_text(
        json.dumps({**about, "scenes": scenes}, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    return path


def table(results: Sequence[Result]) -> Table:
    """The numbers as a table that fits into 80 columns."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for title in ("picture", "queue", "mask"):
        grid.add_column(title)
    for title in ("size", "hole", "s", "PSNR dB", "SSIM"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("rest", no_wrap=True)
    for result in results:
        scene, numbers = result.outcome.scene, result.numbers
        height, width = scene.clean.shape[:2]
        cells: list[str | Text] = [
            scene.name,
            scene.kind.value,
            scene.style.value,
            f"{width}×{height}",
        ]
        seconds = _seconds(result.outcome.seconds)
        if numbers is None:
            cells += ["", seconds, Text("failed", "red")]
        else:
            cells += [
                f"{numbers.hole_percent:.1f}%",
                seconds,
                f"{_decibels(numbers.text_psnr)} → {_decibels(numbers.psnr):>4}",
                f"{numbers.text_ssim:.2f} → {numbers.ssim:.2f}",
                "same" if numbers.rest_identical else Text("DIFF", "red"),
            ]
        grid.add_row(*cells)
    return grid


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture; raises OSError, which names the path."""
    encoded, data = cv2.imencode(".png", picture)
    assert encoded, "OpenCV can write any uint8 picture as PNG"
    path.write_bytes(data.tobytes())


def _row(result: Result) -> Row:
    scene, numbers = result.outcome.scene, result.numbers
    height, width = scene.clean.shape[:2]
    label = f"{scene.name} · {width}×{height} · {scene.kind} queue · {scene.style}"
    if numbers is None:
        label += " · failed"
    else:
        label += (
            f" · hole {numbers.hole_percent:.1f} % · PSNR in the hole "
            f"{_decibels(numbers.text_psnr)} → {_decibels(numbers.psnr)} dB"
        )
    mask = np.repeat(scene.mask[..., None], 3, axis=2)
    return Row(label, (scene.clean, scene.before, mask, result.outcome.after))


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 99.9 else f"{value:.0f}"


def _decibels(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.1f}"


def _for_json(value: float | bool) -> float | bool | None:
    if isinstance(value, bool):
        return value
    return None if math.isinf(value) else round(value, 4)
