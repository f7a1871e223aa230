"""Inference of whole canvases on a GPU, to which pictures are copied before it is their turn.

Each picture crosses the bus as bytes, once in each direction, and copies run while the network
does. The device does the work that `batch_inference` and `lama.padding` do on the host.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from lama.engine.engine import Engine, Finish
from lama.engine.pixels import restored
from lama.engine.precision import decide
from lama.engine.transfers import Bytes, Cuda, Download, Staged, Streams, Transfers
from lama.inference import engine_of
from lama.padding import padded_side
from lama.saicinpainting.training.trainers import InpaintingModel

#: The most pixels of a result that is resized on the device; a larger one would take too much of
#: its memory and is resized on the host.
MOST_RESTORED = 4 * 1024 * 1024

#: Blocks of pinned memory per picture of a batch: picture and mask of the batches that are loaded,
#: computed (two of them) and stored at the same time, and the results of all but the first.
BLOCKS = 4 * 2 + 3

#: Further blocks, for the flags of those batches.
FLAG_BLOCKS = 3


class Launched:
    """A batch that the device fills. Its pictures are judged when the first one is collected."""

    def __init__(
        self,
        engine: Engine,
        staged: Sequence[Staged],
        threshold: int,
        transfers: Transfers,
        finish: Sequence[Finish],
    ) -> None:
        """Starts the batch; waits for nothing."""
        self._engine, self._transfers, self._threshold = engine, transfers, threshold
        self._staged, self._finish = staged, finish
        self._lock = threading.Lock()
        pictures, flags, self._is_exact = engine.launch(staged, threshold, transfers, finish)
        self._pictures: list[Download | None] = [*pictures]
        self._flags: Download | None = flags

    def result(self, index: int) -> Bytes:
        """A picture of the batch, once it is there.

        Raises FloatingPointError for weights that give no finite output, RuntimeError if the device
        has failed.
        """
        with self._lock:
            if self._flags is not None:
                self._judge(self._flags.result())
                self._flags = None
        picture = self._pictures[index]
        if picture is None:
            raise FloatingPointError(
                "the network's output is not finite, in float32 either; use other weights"
            )
        return picture.result()

    def _judge(self, flags: Bytes) -> None:
        """Computes again what is not finite; its inputs are still on the device."""
        overflowed = [index for index, flag in enumerate(flags) if not flag]
        again: Sequence[Download | None] = [None] * len(overflowed)
        if not self._is_exact:
            self._engine.judge(len(overflowed), len(flags))
            if overflowed:
                again = self._engine.fill_exactly(
                    [self._staged[i] for i in overflowed],
                    self._threshold,
                    self._transfers,
                    [self._finish[i] for i in overflowed],
                )
        for index, picture in zip(overflowed, again, strict=True):
            self._pictures[index] = picture
        self._staged = ()


@dataclass(frozen=True, slots=True)
class Arriving:
    """A picture on its way back."""

    _batch: Launched
    _index: int

    def result(self) -> Bytes:
        """The picture, once it is there; raises what `Launched.result` raises."""
        return self._batch.result(self._index)


class StagedInference:
    """A model on a GPU that fills pictures staged there."""

    def __init__(
        self,
        model: InpaintingModel,
        device: str | torch.device,
        use_fp16: bool,
        mask_threshold: int,
        batch: int,
        pixels: int,
        streams: Streams | None = None,
    ) -> None:
        """Takes pinned memory for `batch` pictures of `pixels` pixels."""
        where = torch.device(device)
        self._engine = engine_of(model, device, decide(device, use_fp16).dtype)
        self._threshold = mask_threshold
        self._unit = max(8, 2**model.generator.config.n_downsampling)
        self._transfers = Transfers(
            streams or Cuda(where), BLOCKS * batch + FLAG_BLOCKS, 3 * pixels
        )

    def place(self, shape: Sequence[int]) -> Bytes:
        """A uint8 array to read a picture or a mask into."""
        return self._transfers.place(shape)

    def stage(self, picture: Bytes, mask: Bytes, original_size: Sequence[int]) -> Staged | None:
        """Starts to copy H×W×3 RGB and H×W; None for a picture that the host must handle.

        Those are pictures without a hole, of a size that would have to be padded, with a very large
        result, or for which the device has no memory at present.
        """
        height, width = mask.shape
        fits = all(padded_side(side, self._unit) == side for side in (height, width))
        if not fits or original_size[0] * original_size[1] > MOST_RESTORED:
            return None
        if not (mask > self._threshold).any():
            return None
        try:
            return self._transfers.upload(picture, mask)
        except RuntimeError:  # a worse failure shows in the next batch
            return None

    def fill(
        self,
        staged: Sequence[Staged],
        paddings: Sequence[Sequence[int]],
        original_sizes: Sequence[Sequence[int]],
    ) -> list[Arriving]:
        """Pictures on their way back: filled, without padding, in their original size, BGR.

        They are within one level of the host's results, and equal where nothing is resized. Waits
        for nothing, so that the next batch may be launched before this one is computed.
        """
        sizes: dict[torch.Size, list[int]] = defaultdict(list)
        for index, picture in enumerate(staged):
            sizes[picture.mask.shape].append(index)
        results: dict[int, Arriving] = {}
        for group in sizes.values():
            finish = [
                partial(restored, padding=paddings[i], original_size=original_sizes[i])
                for i in group
            ]
            launched = Launched(
                self._engine, [staged[i] for i in group], self._threshold, self._transfers, finish
            )
            results.update((i, Arriving(launched, place)) for place, i in enumerate(group))
        return [results[index] for index in range(len(staged))]
