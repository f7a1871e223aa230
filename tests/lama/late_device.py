"""A stand-in for a GPU's streams: what they are given happens as late as it may."""

from __future__ import annotations

from collections.abc import Callable

import torch

#: What memory holds that nobody has written to yet.
UNWRITTEN = 99


class Mark:
    """Reached at once on the stream that computes."""

    def __init__(self, stream: list[Callable[[], None]] | None) -> None:
        self.stream = stream
        self.reached = stream is None


class LateDevice:
    """`Streams` whose copies wait until somebody waits for them; what computes is never late."""

    def __init__(self, pinned: bool = True) -> None:
        self.log: list[str] = []
        self.asked_for: list[int] = []
        self._pinned = pinned
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._names: dict[int, str] = {}
        self._streams: list[list[Callable[[], None]]] = []

    def name(self, stream) -> str:
        return "compute" if stream is None else self._names[id(stream)]

    def stream(self):
        self._streams.append([])
        self._names[id(self._streams[-1])] = ("up", "down")[len(self._streams) - 1]
        return self._streams[-1]

    def empty(self, shape, stream):
        self.log.append(f"memory of {self.name(stream)}")
        return torch.full(tuple(shape), UNWRITTEN, dtype=torch.uint8)

    def copy(self, target, source, stream) -> None:
        self.log.append(f"{self.name(stream)} copies")
        into, out_of = self._there(target), self._there(source)
        stream.append(lambda: into.copy_(out_of))

    def mark(self, stream) -> Mark:
        self.log.append(f"{self.name(stream)} marks")
        mark = Mark(stream)
        if stream is not None:
            stream.append(lambda: setattr(mark, "reached", True))
        return mark

    def wait(self, stream, mark: Mark) -> None:
        self.log.append(f"{self.name(stream)} waits for {self.name(mark.stream)}")
        if stream is None:
            self._run(mark)
        else:
            stream.append(lambda: self._run(mark))

    def reached(self, mark: Mark) -> bool:
        return mark.reached

    def join(self, mark: Mark) -> None:
        self.log.append(f"host waits for {self.name(mark.stream)}")
        self._run(mark)

    def used(self, tensor, stream) -> None:
        self.log.append(f"used by {self.name(stream)}")

    def pinned(self, size: int):
        self.asked_for.append(size)
        if not self._pinned:
            raise RuntimeError("CUDA error: out of memory\nand a long story")
        self._memory = torch.full((size,), UNWRITTEN, dtype=torch.uint8)
        return self._memory

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same place in pinned memory; unlike a tensor, a device that copies keeps nothing."""
        start = tensor.data_ptr() - self._memory.data_ptr()
        if 0 <= start < len(self._memory):
            return self._memory[start : start + tensor.numel()].view(tensor.shape)
        return tensor

    @staticmethod
    def _run(mark: Mark) -> None:
        while not mark.reached:
            mark.stream.pop(0)()
