"""A network's `paint`, recorded for the sizes of batches that are prepared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lama.saicinpainting.training.modules.precision import exact_float32

from .ends import Ends, Places, Size, whole
from .fourier import ByFFT
from .fused import FusedNetwork
from .gathered import COUNTS
from .measuring import Run, is_faster, seconds_on
from .network import Network
from .replay import GraphRecorder, Record, Replayed, run_again
from .switches import Recorders, Result, choose
from .turns import Turns

AnyNetwork = Network | FusedNetwork


class Painter:
    """Paints batches; all its recordings share their memory."""

    def __init__(
        self, network: AnyNetwork, device: torch.device, turns: Turns, ends: Ends | None = None
    ) -> None:
        """`turns` are those in which the device computes; `ends` are torch's operations if None."""
        self._network, self._device, self._turns = network, device, turns
        self._ends = ends or Ends()
        self._record: Record = GraphRecorder() if device.type == "cuda" else run_again
        self._paints = {count: self._replayed(count) for count in (0, *COUNTS)}
        #: (count, height, width, windows) with what the recording uses.
        self.recorded: dict[tuple[int, int, int, int], object] = {}
        self.seconds: Callable[[Run], float] = seconds_on(device)
        self._recorders = Recorders()
        self.has_chosen = device.type != "cuda"

    def __call__(self, places: Places, windows: int) -> None:
        """Fills pictures: writes their results and flags; waits for nothing.

        Only `windows` are decoded, if they are not 0 and that is recorded.
        """
        size = places.size
        if not self._paints[windows].has(size):
            windows = 0
        found = self._paints[windows](size, self._ends.given(places))
        self._ends.take(places, found)

    def paint_with(self, network: AnyNetwork, places: Places) -> None:
        """The same with another network, not recorded."""
        given = self._ends.given(places).to(self._device, non_blocking=True)
        self._ends.take(places, self._ends.run(partial(painted, network), places.size, given))

    def _replayed(self, windows: int) -> Replayed:
        run = partial(self._ends.run, partial(painted, self._network, windows=windows))
        return Replayed(run, self._record, self._sample, self._device)

    def _sample(self, size: Size) -> tuple[Tensor, object]:
        places = self._black(size)
        return self._ends.given(places), places

    def _black(self, size: Size) -> Places:
        """Black pictures without holes."""
        return whole(torch.zeros((*size, 4), dtype=torch.uint8, device=self._device))[0]

    def has(self, batch: int, height: int, width: int) -> bool:
        """Whether batches of a size are recorded."""
        return self._paints[0].has((batch, height, width))

    @torch.no_grad()
    def prepare(self, batch: int, height: int, width: int, windows: int) -> None:
        """Records a size in several turns, so that batches that wait are filled in between."""
        size = batch, height, width
        with self._turns:
            if not self._can_record(size):
                return
        self._choose(size)
        for count in sorted({0, windows}):
            with self._turns:
                if (batch, height, width, count) not in self.recorded:
                    self._in_recorder(partial(self._paints[count].rehearse, size))
            with self._turns:
                self.prepare_now(batch, height, width, count)

    @torch.no_grad()
    def prepare_now(self, batch: int, height: int, width: int, windows: int) -> None:
        """Records a size; with windows only if that is faster than to decode everything."""
        paint, size = self._paints[windows], (batch, height, width)
        if not self._can_record(size):
            return
        units = self._network.units(*size)
        if not self._in_recorder(partial(paint.prepare, size)):
            return
        if windows and not self._is_worth(size, windows):
            paint.forget(size)
        else:  # the recording refers to their memory
            self.recorded[batch, height, width, windows] = units

    def _can_record(self, size: Size) -> bool:
        """Whether none of it is computed by cuFFT.

        cuFFT's cache of plans may free memory that a recording refers to.
        """
        is_cpu = self._device.type == "cpu"
        return is_cpu or not any(isinstance(unit, ByFFT) for unit in self._network.units(*size))

    def _is_worth(self, size: Size, windows: int) -> bool:
        """Whether decoding only so many windows is faster than decoding everything."""
        places = self._black(size)
        some, everything = (partial(self, places, count) for count in (windows, 0))
        what = f"{windows} windows of the decoder for {size}"
        return is_faster(what, some, everything, self.seconds)

    def _choose(self, size: Size) -> None:
        """Chooses the network's switches by the first size that is prepared."""
        if self.has_chosen or not isinstance(self._network, FusedNetwork):
            return
        self.has_chosen = True

        def trial() -> Run | None:
            with self._turns:
                paint = self._replayed(0)
                if not self._in_recorder(partial(paint.prepare, size)):
                    return None
                places = self._black(size)
                return lambda: paint(size, self._ends.given(places))

        def seconds(run: Run) -> float:
            with self._turns:
                return self.seconds(run)

        choose(self._network.switches, trial, seconds)

    def _in_recorder(self, work: Callable[[], Result]) -> Result:
        """Does `work` in the thread that records as the network's switches say."""
        network = self._network
        benchmark = isinstance(network, FusedNetwork) and network.switches.benchmark
        return self._recorders.run(benchmark, work)


def painted(network: AnyNetwork, pixels: Tensor, windows: int = 0) -> tuple[Tensor, Tensor]:
    """What `paint` of the network gives, in its own precision."""
    with exactness(network):
        if windows and isinstance(network, FusedNetwork):
            return network.paint(pixels, windows)
        return network.paint(pixels)


def exactness(network: AnyNetwork) -> contextlib.AbstractContextManager[None]:
    """The context that keeps a GPU from computing float32 as TF32."""
    exact = network.dtype == torch.float32 and network.device.type == "cuda"
    return exact_float32() if exact else contextlib.nullcontext()
