"""Bytes in, bytes out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lama.saicinpainting.training.modules.ffc import FFCResNetGenerator
from lama.saicinpainting.training.modules.precision import exact_float32

from .folding import FoldedGenerator, fold
from .fused import FusedNetwork, fits
from .kernels import CudaKernels
from .network import Network
from .pixels import masked, scaled
from .replay import GraphRecorder, Replayed, run_again
from .transfers import Download, Staged, Transfers, say_unpinned
from .turns import Turns
from .windows import windows

logger = logging.getLogger(__name__)

AnyNetwork = Network | FusedNetwork

Picture = npt.NDArray[np.uint8]
Hole = npt.NDArray[np.bool_]


class Engine:
    """A generator made ready for one device and dtype.

    One call at a time; others wait. The generator is kept for the float32 weights, which are made
    when a picture overflows.
    """

    def __init__(
        self, generator: FFCResNetGenerator, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._generator = generator
        self._device, self._dtype = device, dtype
        self.network = _network(fold(generator), device, dtype)
        self._exact: AnyNetwork | None = self.network if dtype == torch.float32 else None
        self._turns = Turns()
        # On a CPU a batch is hardly faster than its pictures one by one, and needs more memory.
        self._by_windows = device.type == "cpu"
        self._paint = Replayed(
            partial(_painted, self.network), GraphRecorder() if device.type == "cuda" else run_again
        )
        self._kept: list[object] = []
        #: Pictures computed again in float32 because half precision gave no finite output.
        self.half_fallbacks = 0

    @torch.no_grad()
    def prepare(self, batch: int, height: int, width: int) -> None:
        """On a GPU, records what batches of this size run, which takes seconds; else nothing."""
        with self._turns:
            if self._by_windows:
                return
            if self._paint.prepare((batch, height, width, 4), self._device):
                # A recording uses them where they are.
                self._kept.append(self.network.units(batch, height, width))

    def give_back_memory(self) -> None:
        """Gives what torch keeps of a GPU's memory back; never in the middle of a recording."""
        with self._turns:
            torch.cuda.empty_cache()

    @torch.no_grad()
    def fill(self, pictures: Picture, holes: Hole) -> list[Picture | None]:
        """B×H×W×3 RGB and B×H×W to pictures, H×W×3, with the holes filled; None: not finite.

        H and W are multiples of 8 and at least 16. A result differs from its picture in the hole
        only, is a new array and, on a CPU, does not depend on the other pictures.
        """
        with self._turns:
            if not self._by_windows:
                return self._fill_batch(as_pixels(pictures, holes, self._device.type == "cuda"))
            return [
                self._fill_windows(picture, hole)
                for picture, hole in zip(pictures, holes, strict=True)
            ]

    def _fill_windows(self, picture: Picture, hole: Hole) -> Picture | None:
        """One picture, whose decoder runs on what reaches the hole only."""
        pixels = as_pixels(picture[None], hole[None])
        fill = _decoded(self.network, pixels, hole)
        if fill is None and self._dtype != torch.float32:
            self._note_overflow(1, 1)
            fill = _decoded(self._exactly(), pixels, hole)
        return None if fill is None else np.where(hole[..., None], fill, picture)

    def _fill_batch(self, pixels: Tensor) -> list[Picture | None]:
        """A batch as a whole; the composite is made on the device."""
        filled, finite = self._filled(pixels)
        results = _on_host(filled).numpy()
        return [results[i] if ok else None for i, ok in enumerate(finite)]

    @torch.no_grad()
    def fill_staged(
        self,
        staged: Sequence[Staged],
        threshold: int,
        transfers: Transfers,
        finish: Sequence[Callable[[Tensor], Tensor]],
    ) -> list[Download | None]:
        """Like `fill`, but from pictures of one size on the device to pictures on their way back.

        A mask value above `threshold` is a hole. What comes back is what `finish` makes of each
        filled picture, H×W×3 on the device: a new tensor.
        """
        with self._turns:
            for one in staged:
                transfers.await_arrival(one)
            pictures = torch.stack([one.picture for one in staged])
            masks = torch.stack([one.mask for one in staged])
            filled, finite = self._filled(masked(pictures, masks, threshold))
            # The next call writes over what is filled: it comes after this on the same stream.
            return [
                transfers.download(act(picture)) if ok else None
                for act, picture, ok in zip(finish, filled, finite, strict=True)
            ]

    def _filled(self, pixels: Tensor) -> tuple[Tensor, list[bool]]:
        """The filled pictures, B×H×W×3 on the device, and whether each is finite.

        They are valid until the next call. Waits until they are there.
        """
        filled, finite = self.paint(pixels)
        good = finite.cpu()
        broken = ~good
        if bool(broken.any()) and self._dtype != torch.float32:
            self._note_overflow(int(broken.sum()), len(pixels))
            which = broken.nonzero()[:, 0].to(pixels.device)
            again, finite = _painted(self._exactly(), pixels[which].to(self._device))
            filled[which.to(self._device)] = again
            good[broken] = finite.cpu()
        return filled, good.tolist()

    def logits(self, pixels: Tensor) -> Tensor:
        """What the network says before the sigmoid: B×H×W×4 on the device to B×H×W×3."""
        with _exactness(self.network):
            return self.network.logits(pixels)

    def paint(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What a batch on the device becomes, and which of it is finite; valid until the next call.

        Nothing is computed again, and nothing waited for.
        """
        return self._paint(pixels, self._device)  # type: ignore[return-value]

    def _exactly(self) -> AnyNetwork:
        if self._exact is None:
            self._exact = _network(fold(self._generator), self._device, torch.float32)
        return self._exact

    def _note_overflow(self, count: int, total: int) -> None:
        self.half_fallbacks += count
        logger.warning(
            "%d of %d pictures overflowed in %s: computed again in float32, %d so far",
            count,
            total,
            self._dtype,
            self.half_fallbacks,
        )


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
    """The fastest there is for a device."""
    if device.type == "cuda" and fits(folded, dtype):
        try:
            return FusedNetwork(folded, device, dtype, CudaKernels(device, dtype))
        except (RuntimeError, OSError) as error:
            logger.warning("no kernels of our own on %s, which is slower: %s", device, error)
    return Network(folded, device, dtype)


def _painted(network: AnyNetwork, pixels: Tensor) -> tuple[Tensor, Tensor]:
    with _exactness(network):
        return network.paint(pixels)


def _exactness(network: AnyNetwork) -> contextlib.AbstractContextManager[None]:
    """A GPU's float32 shall be float32."""
    exact = network.dtype == torch.float32 and network.device.type == "cuda"
    return exact_float32() if exact else contextlib.nullcontext()


def _on_host(tensor: Tensor) -> Tensor:
    """A copy, which from a GPU goes through pinned memory."""
    place = _host(tensor.shape, pinned=tensor.is_cuda)
    place.copy_(tensor, non_blocking=True)
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
    return place


def _host(shape: Sequence[int], pinned: bool) -> Tensor:
    """uint8 of any values, in ordinary memory where there is none that can be pinned."""
    if pinned:
        try:
            return torch.empty(tuple(shape), dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            say_unpinned(error)
    return torch.empty(tuple(shape), dtype=torch.uint8)


def as_pixels(pictures: Picture, holes: Hole, pinned: bool = False) -> Tensor:
    """What the network takes: B×H×W×4, black in the hole, and the mask as the fourth channel."""
    pixels = _host((*holes.shape, 4), pinned)
    array = pixels.numpy()
    np.multiply(pictures, ~holes[..., None], out=array[..., :3])
    np.multiply(holes, np.uint8(255), out=array[..., 3])
    return pixels
