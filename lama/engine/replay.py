"""A function of one tensor on the GPU, recorded once per shape and replayed.

The network is hundreds of small kernels, and starting them one by one takes a CPU longer than a
fast GPU needs to run them. A CUDA graph starts them all at once. Shapes that were not recorded run
as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Function = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Recording:
    """Fixed places for what goes in and what comes out, and the way from one to the other."""

    given: Tensor
    found: tuple[Tensor, ...]
    replay: Callable[[], None]


class Replayed:
    """`function`, with recordings of the shapes that were prepared. For one thread at a time.

    What `function` uses must stay where it is in memory. `record` is a `GraphRecorder` on a GPU.
    """

    def __init__(self, function: Function, record: Callable[[Function, Tensor], Recording]) -> None:
        self._function = function
        self._record = record
        self._recordings: dict[tuple[int, ...], Recording] = {}

    def prepare(self, shape: tuple[int, ...], device: torch.device) -> bool:
        """Record for uint8 of a shape; False where memory is short: it stays without, and slower.

        A shape that was recorded before is not recorded again, which is False too.
        """
        if shape in self._recordings:
            return False
        try:
            given = torch.zeros(shape, dtype=torch.uint8, device=device)
            self._recordings[shape] = self._record(self._function, given)
        except RuntimeError as error:
            logger.warning("no CUDA graph for %s: %s", shape, str(error).splitlines()[0])
            return False
        return True

    def __call__(self, pixels: Tensor, device: torch.device) -> tuple[Tensor, ...]:
        """`pixels` may lie on the host; the results are valid until the next call."""
        recording = self._recordings.get(tuple(pixels.shape))
        if recording is None:
            return self._function(pixels.to(device, non_blocking=True))
        recording.given.copy_(pixels, non_blocking=True)
        recording.replay()
        return recording.found


def run_again(function: Function, given: Tensor) -> Recording:
    """For devices without graphs: replaying is running again."""
    found = function(given)

    def replay() -> None:
        for place, tensor in zip(found, function(given), strict=True):
            place.copy_(tensor)

    return Recording(given, found, replay)


class GraphRecorder:
    """Records CUDA graphs that share their memory: they never run at the same time.

    All are recorded on one stream, since each stream that multiplies matrices gets a workspace for
    good. Graphs share that workspace too, and torch clears it when it drops any of them, so that
    they are kept as long as this, those that failed as well.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream: torch.cuda.Stream | None = None
        self._graphs: list[torch.cuda.CUDAGraph] = []
        #: Bytes that the graphs share.
        self._shared = 0

    def __call__(self, function: Function, given: Tensor) -> Recording:
        """Raises RuntimeError where memory is short, or something cannot be recorded."""
        device = given.device
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Whatever happens only once (libraries that choose their kernels, the choice of the
        # Fourier units' way) happens in the first round. What the second one takes is what the
        # graph will.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            function(given)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            function(given)
            needed = torch.cuda.max_memory_allocated(device) - before
        torch.cuda.current_stream(device).wait_stream(self._stream)
        torch.cuda.synchronize(device)
        # What that took goes back, as the graph has memory of its own.
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0]
        require_room(needed, self._shared, free)
        graph = torch.cuda.CUDAGraph()
        self._graphs.append(graph)
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            found = function(given)
        self._shared = max(self._shared, needed)
        return Recording(given, found, graph.replay)


def require_room(needed: int, shared: int, free: int) -> None:
    """Raises RuntimeError unless a graph fits into device memory, and a run without one beside it.

    A graph keeps its memory for good, and pictures of other sizes need as much; and memory that
    runs out in the middle of a recording may not come back. All in bytes: `shared` is there
    already, from graphs that were recorded before.
    """
    if free < needed + max(0, needed - shared):
        raise RuntimeError(
            f"it would take {needed >> 20} MiB for good, and leave less than that of the "
            f"{free >> 20} MiB that are free"
        )
