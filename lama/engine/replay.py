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

    What `function` uses must stay where it is in memory. `record` is `record_graph` on a GPU.
    """

    def __init__(self, function: Function, record: Callable[[Function, Tensor], Recording]) -> None:
        self._function = function
        self._record = record
        self._recordings: dict[tuple[int, ...], Recording] = {}

    def prepare(self, given: Tensor) -> None:
        """Record the shape of `given`; where memory is short it stays without, and slower."""
        shape = tuple(given.shape)
        if shape in self._recordings:
            return
        try:
            self._recordings[shape] = self._record(self._function, given)
        except RuntimeError as error:
            logger.warning("no CUDA graph for %s: %s", shape, str(error).splitlines()[0])

    def __call__(self, host: Tensor, device: torch.device) -> tuple[Tensor, ...]:
        """`host` may lie in pinned memory; the results are valid until the next call."""
        recording = self._recordings.get(tuple(host.shape))
        if recording is None:
            return self._function(host.to(device, non_blocking=True))
        recording.given.copy_(host, non_blocking=True)
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
    """Records CUDA graphs that share their memory: they never run at the same time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Function, given: Tensor) -> Recording:
        # Whatever happens only once (libraries that choose their kernels, the choice of the
        # Fourier units' way) happens here, on a stream of its own as CUDA wants it.
        stream = torch.cuda.Stream(given.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(given.device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                function(given)
        torch.cuda.current_stream(given.device).wait_stream(stream)
        torch.cuda.synchronize(given.device)
        # What that took goes back, as the graph has memory of its own.
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            found = function(given)
        return Recording(given, found, graph.replay)
