"""Bytes in, bytes out."""

from __future__ import annotations

import logging
import threading

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lama.saicinpainting.training.modules.ffc import FFCResNetGenerator
from lama.saicinpainting.training.modules.precision import exact_float32

from .folding import fold
from .network import Network
from .windows import windows

logger = logging.getLogger(__name__)

Picture = npt.NDArray[np.uint8]
Hole = npt.NDArray[np.bool_]


class Engine:
    """A generator made ready for one device and dtype.

    Weights are copied: the generator can change or go, but for the float32 ones that an overflow
    needs, which are made when it happens. One call at a time; others wait.
    """

    def __init__(
        self, generator: FFCResNetGenerator, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._generator = generator
        self._device, self._dtype = device, dtype
        self.network = Network(fold(generator), device, dtype)
        self._exact: Network | None = self.network if dtype == torch.float32 else None
        self._lock = threading.Lock()
        # On a CPU a batch is hardly faster than its pictures one by one, and needs more memory.
        self._by_windows = device.type == "cpu"
        #: Pictures computed again in float32 because half precision gave no finite output.
        self.half_fallbacks = 0

    @torch.no_grad()
    def fill(self, pictures: Picture, holes: Hole) -> list[Picture | None]:
        """B×H×W×3 RGB and B×H×W to pictures, H×W×3, with the holes filled; None: not finite.

        H and W are multiples of 8 and at least 16. A result differs from its picture in the hole
        only, is a new array and, on a CPU, does not depend on the other pictures.
        """
        pixels = as_pixels(pictures, holes)
        with self._lock:
            if self._by_windows:
                pairs = zip(torch.split(pixels, 1), holes, strict=True)
                fills = [self._fill_windows(one, hole) for one, hole in pairs]
            else:
                fills = self._fill_whole(pixels)
        return [
            None if fill is None else np.where(hole[..., None], fill, picture)
            for picture, hole, fill in zip(pictures, holes, fills, strict=True)
        ]

    def _fill_windows(self, pixels: Tensor, hole: Hole) -> Picture | None:
        """One picture, whose decoder runs on what reaches the hole only."""
        fill = _decoded(self.network, pixels, hole)
        if fill is None and self._dtype != torch.float32:
            self._note_overflow(1, 1)
            return _decoded(self._exactly(), pixels, hole)
        return fill

    def _fill_whole(self, pixels: Tensor) -> list[Picture | None]:
        logits = self.network.logits(pixels.to(self._device))
        finite = torch.isfinite(logits).flatten(1).all(dim=1)
        if not bool(finite.all()) and self._dtype != torch.float32:
            self._note_overflow(int((~finite).sum()), len(pixels))
            with exact_float32():
                logits = logits.float()
                logits[~finite] = self._exactly().logits(pixels[~finite.cpu()].to(self._device))
            finite = torch.isfinite(logits).flatten(1).all(dim=1)
        fills = _bytes(logits)
        return [fill if ok else None for fill, ok in zip(fills, finite.tolist(), strict=True)]

    def _exactly(self) -> Network:
        if self._exact is None:
            self._exact = Network(fold(self._generator), self._device, torch.float32)
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


def _decoded(network: Network, pixels: Tensor, hole: Hole) -> Picture | None:
    features = network.features(pixels)
    fill = np.zeros((*hole.shape, 3), np.uint8)
    for window in windows(hole, network.unit):
        logits = network.decode(features[:, :, window.rows, window.columns])
        if not bool(torch.isfinite(logits).all()):
            return None
        (part,) = _bytes(logits)
        fill[window.target] = part[window.valid]
    return fill


def as_pixels(pictures: Picture, holes: Hole) -> Tensor:
    """What the network takes: B×H×W×4, black in the hole, and the mask as the fourth channel."""
    pixels = np.empty((*holes.shape, 4), np.uint8)
    np.multiply(pictures, ~holes[..., None], out=pixels[..., :3])
    np.multiply(holes, np.uint8(255), out=pixels[..., 3])
    return torch.from_numpy(pixels)


def _bytes(logits: Tensor) -> npt.NDArray[np.uint8]:
    """Logits of any shape to 0…255."""
    scaled = torch.sigmoid(logits.float()).mul_(255).round_()
    fills: npt.NDArray[np.uint8] = scaled.to(torch.uint8).cpu().numpy()
    return fills
