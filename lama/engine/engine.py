"""`Engine`: a generator on a device, from bytes to bytes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lama.saicinpainting.training.modules.ffc import FFCResNetGenerator

from .ends import Ends, Places, ends_for, whole
from .folding import FoldedGenerator, fold
from .fused import FusedNetwork, fits
from .kernels import CudaKernels
from .network import Network
from .painter import AnyNetwork, Painter, exactness, painted
from .pixels import scaled
from .transfers import say_unpinned
from .turns import Turns
from .windows import windows

logger = logging.getLogger(__name__)

Picture = npt.NDArray[np.uint8]
Hole = npt.NDArray[np.bool_]

#: Batches in a row of which every picture overflowed, after which half precision is given up.
MOST_OVERFLOWED: Final = 3


class Engine:
    """A generator prepared for one device and dtype.

    Calls run one at a time; others wait. The generator is kept so that a network in float32 can be
    made when a picture overflows.
    """

    def __init__(
        self, generator: FFCResNetGenerator, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._generator = generator
        self._device, self._dtype = device, dtype
        self.network = _network(fold(generator), device, dtype)
        self._exact: AnyNetwork | None = self.network if dtype == torch.float32 else None
        self.turns = Turns()
        # On a CPU a batch is hardly faster than single pictures, and needs more memory.
        self._by_windows = device.type == "cpu"
        # Without kernels between convolutions there are none for the ends either.
        has_kernels = device.type == "cuda" and isinstance(self.network, FusedNetwork)
        self._ends = ends_for(device) if has_kernels else Ends()
        self._painter = Painter(self.network, device, self.turns, self._ends)
        self._overflowed_in_a_row = 0
        #: Pictures computed again in float32 because half precision gave no finite output.
        self.half_fallbacks = 0

    def prepare(self, batch: int, height: int, width: int, windows: int = 0) -> None:
        """On a GPU, records the kernels of batches of this size, which takes seconds.

        With `windows` also for those whose holes so many windows hold, if that is faster than to
        decode everything. Batches that wait are filled in between.
        """
        if not self._by_windows:
            self._painter.prepare(batch, height, width, windows)

    def is_recorded(self, batch: int, height: int, width: int) -> bool:
        """Whether `prepare` has recorded batches of this size."""
        return self._painter.has(batch, height, width)

    def windows(self, cells: int, batch: int, height: int, width: int) -> int:
        """The number of windows to decode for `cells` with holes; 0 for everything."""
        if not isinstance(self.network, FusedNetwork):
            return 0
        return self.network.windows(cells, batch, height, width)

    def check_device(self) -> None:
        """Gives back cached GPU memory and adds two numbers; raises what the GPU raises.

        Never in the middle of a recording.
        """
        with self.turns:
            torch.cuda.empty_cache()
            torch.ones(1, device=self._device).add(1).item()

    @torch.no_grad()
    def fill(self, pictures: Picture, holes: Hole) -> list[Picture | None]:
        """The pictures with their holes filled, H×W×3; None where the output is not finite.

        `pictures` are B×H×W×3 RGB and `holes` B×H×W; H and W are multiples of 8 and at least 16. A
        result differs from its picture in the hole only, is a new array and, on a CPU, does not
        depend on the other pictures.
        """
        with self.turns:
            if not self._by_windows:
                return self._fill_batch(as_pixels(pictures, holes, self._device.type == "cuda"))
            return [
                self._fill_windows(picture, hole)
                for picture, hole in zip(pictures, holes, strict=True)
            ]

    def _fill_windows(self, picture: Picture, hole: Hole) -> Picture | None:
        """Fills one picture; the decoder runs only on windows that contain the hole."""
        pixels = as_pixels(picture[None], hole[None])
        fill = _decoded(self.network, pixels, hole)
        if self._dtype != torch.float32:
            self._note(int(fill is None), 1)
            if fill is None:
                fill = _decoded(self._exactly(), pixels, hole)
        return None if fill is None else np.where(hole[..., None], fill, picture)

    def _fill_batch(self, pixels: Tensor) -> list[Picture | None]:
        """Fills a batch as a whole; the composite is made on the device."""
        filled, finite = self._filled(pixels)
        results = _on_host(filled).numpy()
        return [results[i] if ok else None for i, ok in enumerate(finite)]

    @torch.no_grad()
    def launch(self, places: Places, windows: int = 0) -> bool:
        """Starts to fill pictures that are on the device; waits for nothing.

        To be called in one of the `turns`. If `windows` is not 0, so many windows of the decoder
        hold all holes. A picture without a flag afterwards is not finite. Returns whether they are
        computed in float32. `judge` must be called with the flags.
        """
        self._painter(places, windows)
        return self._dtype == torch.float32

    def judge(self, overflowed: int, total: int) -> None:
        """Notes how many pictures of a batch in half precision overflowed."""
        with self.turns:
            self._note(overflowed, total)

    @torch.no_grad()
    def launch_exactly(self, places: Places) -> None:
        """Like `launch`, in float32, for pictures that overflowed."""
        self._painter.paint_with(self._exactly(), places)

    def _filled(self, pixels: Tensor) -> tuple[Tensor, list[bool]]:
        """The filled pictures, B×H×W×3 on the device, and whether each is finite; waits."""
        filled, finite = self.paint(pixels)
        _wait_for(self._device)
        good = finite.cpu()
        if self._dtype != torch.float32:
            broken = ~good
            self._note(int(broken.sum()), len(pixels))
            if bool(broken.any()):
                which = broken.nonzero()[:, 0].to(pixels.device)
                again, finite = painted(self._exactly(), pixels[which].to(self._device))
                filled[which.to(self._device)] = again
                good[broken] = finite.cpu()
        return filled, good.tolist()

    def logits(self, pixels: Tensor) -> Tensor:
        """The network's output before the sigmoid: B×H×W×4 on the device to B×H×W×3."""
        with exactness(self.network):
            return self.network.logits(pixels)

    def paint(self, pixels: Tensor, windows: int = 0) -> tuple[Tensor, Tensor]:
        """A batch, B×H×W×4, filled on the device, and whether each is finite: new tensors.

        Does not wait, and computes nothing again in float32. Only `windows` are decoded, which must
        suffice, where that is recorded.
        """
        places, filled = whole(pixels.to(self._device, non_blocking=True))
        self._painter(places, windows)
        return filled, places.flags.view(torch.bool)

    def _exactly(self) -> AnyNetwork:
        if self._exact is None:
            self._exact = _network(fold(self._generator), self._device, torch.float32)
        return self._exact

    def _note(self, count: int, total: int) -> None:
        """Counts pictures that overflowed.

        After MOST_OVERFLOWED batches in a row in which all did, changes to a dtype of wider range.
        """
        self._overflowed_in_a_row = self._overflowed_in_a_row + 1 if count == total else 0
        if not count:
            return
        self.half_fallbacks += count
        logger.warning(
            "%d of %d pictures overflowed in %s: computed again in float32, %d so far",
            count,
            total,
            self._dtype,
            self.half_fallbacks,
        )
        if self._overflowed_in_a_row >= MOST_OVERFLOWED:
            self._widen()

    def _widen(self) -> None:
        """Computes in bfloat16, where a GPU has it, or in float32 from now on."""
        before, self._overflowed_in_a_row = self._dtype, 0
        to_bfloat16 = before == torch.float16 and _has_bfloat16(self._device)
        self._dtype = torch.bfloat16 if to_bfloat16 else torch.float32
        self.network = (
            _network(fold(self._generator), self._device, self._dtype)
            if to_bfloat16
            else self._exactly()
        )
        logger.warning(
            "every picture of %d batches in a row overflowed in %s: from now on %s is used",
            MOST_OVERFLOWED,
            before,
            self._dtype,
        )
        sizes = list(self._painter.recorded)
        self._painter = Painter(self.network, self._device, self.turns, self._ends)
        for size in sizes:
            self._painter.prepare_now(*size)


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _decoded(network: AnyNetwork, pixels: Tensor, hole: Hole) -> Picture | None:
    assert isinstance(network, Network)
    features = network.features(pixels)
    fill = np.zeros((*hole.shape, 3), np.uint8)
    for window in windows(hole, network.unit):
        logits = network.decode(features[:, :, window.rows, window.columns])
        if not bool(torch.isfinite(logits).all()):
            return None
        fill[window.target] = scaled(logits)[0].numpy()[window.valid]
    return fill


def _network(folded: FoldedGenerator, device: torch.device, dtype: torch.dtype) -> AnyNetwork:
    """The fastest network for a device."""
    if device.type == "cuda" and fits(folded, dtype):
        try:
            return FusedNetwork(folded, device, dtype, CudaKernels(device, dtype))
        except (RuntimeError, OSError, AttributeError) as error:  # an old library lacks functions
            logger.warning("no kernels of our own on %s, which is slower: %s", device, error)
    return Network(folded, device, dtype)


def _on_host(tensor: Tensor) -> Tensor:
    """A copy on the host, through pinned memory if it comes from a GPU."""
    place = _host(tensor.shape, pinned=tensor.is_cuda)
    place.copy_(tensor, non_blocking=True)
    _wait_for(tensor.device)
    return place


def _wait_for(device: torch.device) -> None:
    """Waits for a GPU without taking a core, as a spinning wait would."""
    if device.type == "cuda":
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        event.synchronize()


def _host(shape: Sequence[int], pinned: bool) -> Tensor:
    """An uninitialised uint8 tensor, in ordinary memory if no memory can be pinned."""
    if pinned:
        try:
            return torch.empty(tuple(shape), dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            say_unpinned(error)
    return torch.empty(tuple(shape), dtype=torch.uint8)


def as_pixels(pictures: Picture, holes: Hole, pinned: bool = False) -> Tensor:
    """The network's input: B×H×W×4, black in the hole, with the mask as the fourth channel."""
    pixels = _host((*holes.shape, 4), pinned)
    array = pixels.numpy()
    np.multiply(pictures, ~holes[..., None], out=array[..., :3])
    np.multiply(holes, np.uint8(255), out=array[..., 3])
    return pixels
