"""A network's `paint`, recorded for the sizes of batches that are prepared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lama.saicinpainting.training.modules.precision import exact_float32

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

    def __init__(self, network: AnyNetwork, device: torch.device, turns: Turns) -> None:
        """`turns` are those in which the device computes."""
        self._network, self._device, self._turns = network, device, turns
        self._record: Record = GraphRecorder() if device.type == "cuda" else run_again
        self._paints = {
            count: Replayed(partial(painted, network, windows=count), self._record)
            for count in (0, *COUNTS)
        }
        #: (count, height, width, windows) with what the recording uses.
        self.recorded: dict[tuple[int, int, int, int], object] = {}
        self.seconds: Callable[[Run], float] = seconds_on(device)
        self._recorders = Recorders()
        self.has_chosen = device.type != "cuda"

    def __call__(self, pixels: Tensor, windows: int) -> tuple[Tensor, Tensor]:
        """The filled pictures, and whether each is finite; valid until the next call.

        Only `windows` are decoded, if they are not 0 and that is recorded.
        """
        if not self._paints[windows].has(tuple(pixels.shape)):
            windows = 0
        return self._paints[windows](pixels, self._device)  # type: ignore[return-value]

    def has(self, batch: int, height: int, width: int) -> bool:
        """Whether batches of a size are recorded."""
        return self._paints[0].has((batch, height, width, 4))

    @torch.no_grad()
    def prepare(self, batch: int, height: int, width: int, windows: int) -> None:
        """Records a size in several turns, so that batches that wait are filled in between."""
        shape = batch, height, width, 4
        self._choose(shape)
        for count in sorted({0, windows}):
            with self._turns:
                if (batch, height, width, count) not in self.recorded:
                    self._in_recorder(partial(self._paints[count].rehearse, shape, self._device))
            with self._turns:
                self.prepare_now(batch, height, width, count)

    @torch.no_grad()
    def prepare_now(self, batch: int, height: int, width: int, windows: int) -> None:
        """Records a size; with windows only if that is faster than to decode everything."""
        units = self._network.units(batch, height, width)
        if self._device.type == "cuda" and any(isinstance(unit, ByFFT) for unit in units):
            return  # cuFFT's cache of plans may free memory that a recording refers to
        paint, shape = self._paints[windows], (batch, height, width, 4)
        if not self._in_recorder(partial(paint.prepare, shape, self._device)):
            return
        if windows and not self._is_worth(shape, windows):
            paint.forget(shape)
        else:  # the recording refers to their memory
            self.recorded[batch, height, width, windows] = units

    def _is_worth(self, shape: tuple[int, ...], windows: int) -> bool:
        """Whether decoding only so many windows is faster than decoding everything."""
        pixels = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        some, everything = (
            partial(self._paints[count], pixels, self._device) for count in (windows, 0)
        )
        what = f"{windows} windows of the decoder for {shape}"
        return is_faster(what, some, everything, self.seconds)

    def _choose(self, shape: tuple[int, ...]) -> None:
        """Chooses the network's switches by the first size that is prepared."""
        if self.has_chosen or not isinstance(self._network, FusedNetwork):
            return
        self.has_chosen = True
        pixels = torch.zeros(shape, dtype=torch.uint8, device=self._device)

        def trial() -> Run | None:
            with self._turns:
                paint = Replayed(partial(painted, self._network), self._record)
                is_there = self._in_recorder(partial(paint.prepare, shape, self._device))
                return partial(paint, pixels, self._device) if is_there else None

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
