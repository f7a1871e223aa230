"""A worker whose GPU is watched: how long it computes each batch, and the gaps between batches.

CUDA notes both on its own stream, between the replays of graphs; the worker waits for nothing. What
the device does between two batches counts as a gap.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.gpu.scale import Row
from core.config import Settings
from core.network import LaMa
from core.pixels.handover import Network
from harness.launch import launch
from harness.networks import load_network

#: Environment variable: the folder of the notes, one file per process.
VARIABLE: Final = "GPU_NOTES"


class Watch:
    """Notes milliseconds in a line per batch: its own, and the gap before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before: Any = None
        self._under_way: deque[tuple[Any, Any]] = deque()

    def around(self, paint: Any) -> Any:
        """`Engine.launch` or `Engine.paint`, between two events."""

        def painted(*given: Any) -> Any:
            start, end = _event(), _event()
            start.record()
            found = paint(*given)
            end.record()
            self._under_way.append((start, end))
            self._note()
            return found

        return painted

    def _note(self) -> None:
        while self._under_way and self._under_way[0][1].query():
            start, end = self._under_way.popleft()
            if self._before is not None:
                gap = self._before.elapsed_time(start)
                with self._path.open("a") as file:
                    file.write(f"{start.elapsed_time(end)} {gap}\n")
            self._before = end


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def load(settings: Settings) -> Network:
    """The network that the environment names, watched if it is on a GPU."""
    network = load_network(settings)
    folder = os.environ.get(VARIABLE)
    if folder and isinstance(network, LaMa) and network.inpainter.device == "cuda":
        engine: Any = network.inpainter.engine
        watch = Watch(Path(folder, str(os.getpid())))
        engine.launch, engine.paint = watch.around(engine.launch), watch.around(engine.paint)
    return network


def read(folder: Path) -> list[str]:
    """All lines so far."""
    return [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]


def stillness(lines: Iterable[str]) -> Row:
    """The busy share of one worker's device, and its gaps in ms; nothing without lines."""
    notes = [tuple(map(float, line.split())) for line in lines]
    if not notes:
        return {}
    batches, gaps = np.array(notes).T
    median, ninety, most = np.percentile(gaps, (50, 90, 99))
    return {
        "busy": float(batches.sum() / (batches.sum() + gaps.sum())),
        "ms a batch": float(np.median(batches)),
        "gap ms": float(median),
        "90 %": float(ninety),
        "99 %": float(most),
    }


def middle(lines: list[str], ends: int) -> list[str]:
    """Without the batches of either end of a run, where the pipeline is filled or drained."""
    return lines[ends:-ends] if len(lines) > 2 * ends else []


if __name__ == "__main__":
    launch(load)
