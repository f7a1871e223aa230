"""A GPU as its host sees it, without one: a time line.

Batches and copies take time on three streams, and no core. Everything else is the worker's own: it
reads into pinned blocks, uploads, launches, downloads, collects and finishes. A CUDA call holds the
GIL for some microseconds and lets it go once; a launch takes its time without the GIL.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from core.contract import CANVAS
from core.pixels.handover import Filled, Loaded, Network
from harness.pending import arrived
from lama.engine.transfers import Staged, Transfers
from lama.staged import BLOCKS

#: Environment variable with the options as a JSON object.
VARIABLE: Final = "TIMELINE"

#: Calls to torch for a batch, beside those that `Transfers` makes: memory for the results and its
#: parts, the table of addresses, and its copy.
CALLS: Final = 5

#: Seconds that a copy takes before its first byte.
START_S: Final = 8e-6

#: Batches between two lines of the log.
LOGGED: Final = 25

#: What the threads are called that copy pixels.
COPYING: Final = ("load", "store", "unlink")


@dataclass(frozen=True)
class Options:
    """`ms`: of a picture. `gb_s`: of the bus. `call_us`: of a CUDA call. `launch_us`: of a graph.

    `is_ahead`: whether a batch is launched before the last one is done. `folder`: an existing one
    for the logs of processes that share the device.
    """

    ms: float = 3.15
    gb_s: float = 40.0
    call_us: float = 5.0
    launch_us: float = 120.0
    is_ahead: bool = True
    folder: str = ""


@dataclass
class Stream:
    """Until when a stream has something to do, by time.perf_counter()."""

    free_at: float = 0.0


class TimeLine:
    """`lama.engine.transfers.Streams` on which nothing is copied."""

    def __init__(self, options: Options) -> None:
        self.compute = Stream()
        self._bytes_per_s = options.gb_s * 1e9
        self._call_s = options.call_us * 1e-6

    def call(self, count: int = 1) -> None:
        """Make CUDA calls."""
        for _ in range(count):
            end = time.perf_counter() + self._call_s
            while time.perf_counter() < end:
                pass
            time.sleep(0)  # lets the GIL go

    def stream(self) -> Stream:
        return Stream()

    def empty(self, shape: Sequence[int], stream: Stream) -> torch.Tensor:
        self.call()
        return torch.empty(tuple(shape), dtype=torch.uint8, device="meta")

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        self.call()
        began = max(stream.free_at, time.perf_counter())
        stream.free_at = began + START_S + source.numel() / self._bytes_per_s

    def mark(self, stream: Stream | None) -> float:
        self.call()
        return (stream or self.compute).free_at

    def wait(self, stream: Stream | None, mark: float) -> None:
        self.call()
        which = stream or self.compute
        which.free_at = max(which.free_at, mark)

    def reached(self, mark: float) -> bool:
        return time.perf_counter() >= mark

    def join(self, mark: float) -> None:
        """Sleep: a blocking event takes no core."""
        while (remaining_s := mark - time.perf_counter()) > 0:
            time.sleep(remaining_s)

    def used(self, tensor: torch.Tensor, stream: Stream | None) -> None:
        self.call()

    def pinned(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)


@dataclass
class Span:
    """What the log has of some batches: when the device computed, and the process' CPU time."""

    batches: list[tuple[float, float]] = field(default_factory=list)
    cpu_s: float = 0.0
    copying_s: float = 0.0


class TimeLineDevice(Network):
    """A network that gives every picture back after a while."""

    def __init__(self, options: Options, most: int) -> None:
        """`most`: pictures in a batch."""
        self._options = options
        self._streams = TimeLine(options)
        pixels = max(height * width for height, width in CANVAS.values())
        self._transfers = Transfers(self._streams, BLOCKS * most, 3 * pixels)
        self._batches: list[tuple[float, float]] = []

    def describe(self) -> str:
        return f"a time line, {self._options.ms:g} ms a picture"

    # -- Staging ------------------------------------------------------------------------------

    @property
    def staging(self) -> TimeLineDevice:
        return self

    def place(self, shape: Sequence[int]) -> Any:
        return self._transfers.place(shape)

    def stage(
        self, picture: Any, mask: Any, padding: Sequence[int], original_size: Sequence[int]
    ) -> Staged | None:
        return self._transfers.upload(picture, mask) if (mask > 0).any() else None

    # -- Network ------------------------------------------------------------------------------

    def __call__(self, batch: Sequence[Loaded]) -> list[Filled]:
        streams, compute = self._streams, self._streams.compute
        self._transfers.await_arrival([loaded.staged for loaded in batch])
        streams.call(CALLS)
        time.sleep(self._options.launch_us * 1e-6)
        seconds = self._options.ms * len(batch) / 1000
        began = self._reserve(max(time.perf_counter(), compute.free_at), seconds)
        compute.free_at = began + seconds
        self._note(began, compute.free_at)
        if not self._options.is_ahead:
            streams.join(compute.free_at)
        return [*self._transfers.download([loaded.staged.picture for loaded in batch])]

    def collect(self, pictures: Sequence[Filled]) -> list[Filled]:
        return arrived(pictures)

    def _reserve(self, began: float, seconds: float) -> float:
        """When a batch begins on a device that other processes use too."""
        if not self._options.folder:
            return began
        with (Path(self._options.folder) / "free_at").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            free_at = struct.unpack("d", file.read() or bytes(8))[0]
            began = max(began, free_at)
            file.truncate(0)
            file.write(struct.pack("d", began + seconds))
        return began

    def _note(self, began: float, ended: float) -> None:
        self._batches.append((began, ended))
        if self._options.folder and len(self._batches) >= LOGGED:
            copying_s = sum(
                _cpu_s(thread.native_id)
                for thread in threading.enumerate()
                if thread.name.startswith(COPYING)
            )
            span = Span(self._batches, time.process_time(), copying_s)
            with (Path(self._options.folder) / f"{os.getpid()}.log").open("a") as log:
                log.write(json.dumps(vars(span)) + "\n")
            self._batches = []


def network(most: int) -> Network:
    """The device that the environment asks for, for batches of up to `most` pictures."""
    options = Options(**json.loads(os.environ[VARIABLE]))
    return TimeLineDevice(options, most)


def read_logs(folder: Path) -> list[list[Span]]:
    """The spans of each process, in order."""
    return [
        [Span(**json.loads(line)) for line in path.read_text().splitlines()]
        for path in folder.glob("*.log")
    ]


def _cpu_s(thread: int | None) -> float:
    """Seconds of processor time that a thread of this process has taken."""
    fields = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
