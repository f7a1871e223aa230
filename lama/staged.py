"""Inference on a GPU, to which pictures are copied before it is their turn.

The network is shown whole canvases, or their content without the padding. Each picture crosses the
bus as bytes, once in each direction, and copies run while the network does. The device does the
work that `batch_inference`, `lama.regions` and `lama.padding` do on the host.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from lama.engine.engine import Engine, Finish
from lama.engine.frequent import Frequent
from lama.engine.gathered import cells_with
from lama.engine.pixels import restored
from lama.engine.precision import decide
from lama.engine.transfers import Bytes, Cuda, Download, Staged, Streams, Transfers
from lama.inference import engine_of
from lama.padding import padded_side
from lama.regions import Padding, content_window
from lama.regions.boxes import whole
from lama.saicinpainting.training.trainers import InpaintingModel

#: The most pixels of a result that is resized on the device; a larger one would take too much of
#: its memory and is resized on the host.
MOST_RESTORED = 4 * 1024 * 1024

#: Blocks of pinned memory per picture of a batch: picture and mask of the batches that are loaded,
#: computed (two of them) and stored at the same time, and the results of all but the first.
BLOCKS = 4 * 2 + 3

#: Further blocks, for the flags of those batches; of each size in a batch, where sizes differ.
FLAG_BLOCKS = 3


@dataclass(frozen=True, slots=True)
class Shown:
    """What the network is shown of a picture, and what is made of the result."""

    staged: Staged
    #: (top, right, bottom, left) around the part that is kept, pixels.
    padding: Padding
    #: (height, width) of the result.
    size: tuple[int, int]
    #: Cells of the decoder's grid with holes.
    cells: int

    @property
    def finish(self) -> Finish:
        return partial(restored, padding=self.padding, original_size=self.size)


class Launched:
    """A batch that the device fills. Its pictures are judged when the first one is collected."""

    def __init__(
        self,
        engine: Engine,
        shown: Sequence[Shown],
        threshold: int,
        transfers: Transfers,
        windows: int,
    ) -> None:
        """Starts the batch; waits for nothing. `windows` of the decoder hold all holes, or 0."""
        self._engine, self._transfers, self._threshold = engine, transfers, threshold
        self._shown = shown
        self._lock = threading.Lock()
        pictures, flags, self._is_exact = engine.launch(*self._batch(range(len(shown))), windows)
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
                again = self._engine.fill_exactly(*self._batch(overflowed))
        for index, picture in zip(overflowed, again, strict=True):
            self._pictures[index] = picture
        self._shown = ()

    def _batch(self, indices: Sequence[int]) -> tuple[list[Staged], int, Transfers, list[Finish]]:
        """What the engine wants to know of these pictures."""
        shown = [self._shown[index] for index in indices]
        finish = [picture.finish for picture in shown]
        return [picture.staged for picture in shown], self._threshold, self._transfers, finish


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
        region: Literal["full", "content"] = "full",
    ) -> None:
        """Takes pinned memory for `batch` pictures of `pixels` pixels."""
        where = torch.device(device)
        self._engine = engine_of(model, device, decide(device, use_fp16).dtype)
        self._threshold = mask_threshold
        self._unit = model.generator.config.unit
        self.region = region
        flags = FLAG_BLOCKS if region == "full" else FLAG_BLOCKS * batch
        self._transfers = Transfers(streams or Cuda(where), BLOCKS * batch + flags, 3 * pixels)
        # The sizes of contents, and how much is holes, show only in the batches.
        self._frequent = Frequent(self._engine.prepare)

    def place(self, shape: Sequence[int]) -> Bytes:
        """A uint8 array to read a picture or a mask into."""
        return self._transfers.place(shape)

    def stage(
        self, picture: Bytes, mask: Bytes, padding: Sequence[int], original_size: Sequence[int]
    ) -> Shown | None:
        """Starts to copy H×W×3 RGB and H×W; None for a picture that the host must handle.

        Those are pictures without a hole, of a size that would have to be padded, with a very large
        result, or for which the device has no memory at present. `padding` is (top, right, bottom,
        left), which leaves something.
        """
        top, right, bottom, left = padding
        height, width = original_size
        # What the network is shown, what is kept of it, and where a hole counts.
        window = content_window((mask.shape[0], mask.shape[1]), (top, right, bottom, left))
        if self.region == "full":
            frame = counts = whole(mask)
        else:
            frame = window.frame
            counts = window.core.moved(-frame.top, -frame.left)
        fits = all(padded_side(side, self._unit) == side for side in frame.size)
        if not fits or height * width > MOST_RESTORED:
            return None
        hole = mask[frame.slices] > self._threshold
        if not hole[counts.slices].any():
            return None
        try:
            staged = self._transfers.upload(picture, mask, frame.slices)
        except RuntimeError:  # a worse failure shows in the next batch
            return None
        cells = cells_with(hole, self._engine.network.unit)
        return Shown(staged, frame.padding(window.core), (height, width), cells)

    def fill(self, shown: Sequence[Shown]) -> list[Arriving]:
        """Pictures on their way back: filled, without padding, in their original size, BGR.

        They are within one level of the host's results, and equal where nothing is resized. Waits
        for nothing, so that the next batch may be launched before this one is computed.
        """
        sizes: dict[torch.Size, list[int]] = defaultdict(list)
        for index, picture in enumerate(shown):
            sizes[picture.staged.mask.shape].append(index)
        results: dict[int, Arriving] = {}
        for size, group in sizes.items():
            some = [shown[i] for i in group]
            kind = len(group), size[0], size[1]
            windows = self._engine.windows(sum(picture.cells for picture in some), *kind)
            launched = Launched(self._engine, some, self._threshold, self._transfers, windows)
            results.update((i, Arriving(launched, place)) for place, i in enumerate(group))
            if windows or self.region != "full":
                self._frequent.note((*kind, windows))
        return [results[index] for index in range(len(shown))]
