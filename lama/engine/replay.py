"""Records a function of one tensor on a GPU once per size, and replays it.

The network is hundreds of small kernels, and starting them one by one takes a CPU longer than a
fast GPU needs to run them. A CUDA graph starts them all at once. Sizes that were not recorded run
without a graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

#: A function of one tensor.
Function = Callable[[Tensor], tuple[Tensor, ...]]

#: The size of a batch: count, height, width.
Size = tuple[int, int, int]

#: Makes an input for a size, on the host or the device, and whatever must be kept while it is used.
Sample = Callable[[Size], tuple[Tensor, object]]


@dataclass(frozen=True)
class Recording:
    """A recorded graph, with fixed memory for its input and its output."""

    given: Tensor
    found: tuple[Tensor, ...]
    replay: Callable[[], None]


#: Records a function for an input.
Record = Callable[[Function, Tensor], Recording]


class Replayed:
    """A function of a size and a tensor with recordings of the prepared sizes, for one thread.

    Everything that it uses must stay in its place in memory, except for what its input refers to.
    `record` is a `GraphRecorder` on a GPU.
    """

    def __init__(
        self,
        function: Callable[[Size, Tensor], tuple[Tensor, ...]],
        record: Record,
        sample: Sample,
        device: torch.device,
    ) -> None:
        self._function, self._record = function, record
        self._sample, self._device = sample, device
        self._recordings: dict[Size, Recording] = {}

    def prepare(self, size: Size) -> bool:
        """Records for a size; returns whether it has.

        It does not if memory is short (the size then runs without a graph, slower), or if the
        size is recorded already.
        """
        if size in self._recordings:
            return False
        try:
            given, _kept = self._sample(size)
            given = given.to(self._device)
            self._recordings[size] = self._record(partial(self._function, size), given)
        except RuntimeError as error:
            logger.warning("no CUDA graph for %s: %s", size, str(error).splitlines()[0])
            return False
        return True

    def has(self, size: Size) -> bool:
        return size in self._recordings

    def forget(self, size: Size) -> None:
        """Runs a size without its recording from now on."""
        self._recordings.pop(size, None)

    def rehearse(self, size: Size) -> None:
        """Runs once what is going to be recorded, so that a recording takes less time.

        Libraries choose and load their kernels in the first round.
        """
        try:
            given, _kept = self._sample(size)
            self._function(size, given.to(self._device))
        except RuntimeError as error:  # the recording says what it means
            logger.debug("no rehearsal of %s: %s", size, error)

    def __call__(self, size: Size, given: Tensor) -> tuple[Tensor, ...]:
        """`given` may be on the host; the results are valid until the next call."""
        recording = self._recordings.get(size)
        if recording is None:
            return self._function(size, given.to(self._device, non_blocking=True))
        recording.given.copy_(given, non_blocking=True)
        recording.replay()
        return recording.found


def run_again(function: Function, given: Tensor) -> Recording:
    """The recorder of devices without graphs: a replay runs the function again."""
    found = function(given)

    def replay() -> None:
        for place, tensor in zip(found, function(given), strict=True):
            place.copy_(tensor)

    return Recording(given, found, replay)


class GraphRecorder:
    """Records CUDA graphs that share their memory, as they never run at the same time.

    All are recorded on one stream, because each stream that multiplies matrices keeps a workspace.
    Graphs share that workspace too, and torch clears it when it drops any of them. So this object
    keeps all graphs, including those that failed.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream: torch.cuda.Stream | None = None
        self._graphs: list[torch.cuda.CUDAGraph] = []
        #: Bytes that the graphs share.
        self._shared = 0

    def __call__(self, function: Function, given: Tensor) -> Recording:
        """Raises RuntimeError if memory is short, or something cannot be recorded."""
        device = given.device
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Everything that happens only once (libraries choose their kernels, the Fourier units the
        # faster way) happens in the first round. The second takes the memory that the graph will.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            function(given)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            function(given)
            needed = torch.cuda.max_memory_allocated(device) - before
        torch.cuda.current_stream(device).wait_stream(self._stream)
        torch.cuda.synchronize(device)
        # Give back the memory of these rounds, as the graph has its own.
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
    """Raises RuntimeError unless device memory suffices for a graph and for a run without one.

    A graph keeps its memory forever, and pictures of other sizes need as much. If memory runs out
    in the middle of a recording, it may not come back. All numbers are bytes; earlier graphs
    already have `shared` of them.
    """
    if free < needed + max(0, needed - shared):
        raise RuntimeError(
            f"it would take {needed >> 20} MiB for good, and leave less than that of the "
            f"{free >> 20} MiB that are free"
        )
