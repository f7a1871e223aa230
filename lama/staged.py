"""Inference on a GPU, to which pictures are copied before it is their turn.

The network is shown whole canvases, their content without the padding, or windows around holes.
Everything crosses the bus as bytes, once in each direction, and copies run while the network does.
The device does the work that `batch_inference`, `lama.regions` and `lama.padding` do on the host;
windows are planned and pasted on the host.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch

from lama.engine.frequent import Frequent, pieces
from lama.engine.gathered import cells_with
from lama.engine.precision import decide
from lama.engine.transfers import Bytes, Cuda, Streams, Transfers
from lama.inference import engine_of
from lama.launched import Arriving, Group, Launched, Part, Shown
from lama.padding import padded_side
from lama.regions import MOST_AT_ONCE, Region, Sheet, content_window
from lama.regions.boxes import whole
from lama.saicinpainting.training.trainers import InpaintingModel

#: The most pixels of a result that is resized on the device; a larger one would take too much of
#: its memory and is resized on the host.
MOST_RESTORED = 4 * 1024 * 1024

#: Blocks of pinned memory per picture of a batch: picture and mask of the batches that are loaded,
#: computed (two of them) and stored at the same time, and the results of all but the first.
BLOCKS = 4 * 2 + 3

#: Further blocks, for the flags of those batches.
FLAG_BLOCKS = 3


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
        region: Region = "full",
        frequent: Frequent | None = None,
    ) -> None:
        """Takes pinned memory for `batch` pictures of `pixels` pixels."""
        where = torch.device(device)
        self._engine = engine_of(model, device, decide(device, use_fp16).dtype)
        self._threshold = mask_threshold
        self._unit = model.generator.config.unit
        self.region = region
        self._transfers = Transfers(
            streams or Cuda(where), BLOCKS * batch + FLAG_BLOCKS, 3 * pixels
        )
        # The sizes of contents and windows, and how much is holes, show only in the batches.
        self._frequent = frequent or Frequent(self._engine.prepare)

    def place(self, shape: Sequence[int]) -> Bytes:
        """A uint8 array to read a picture or a mask into."""
        if self.region == "mask":  # only its windows are copied to the device
            return np.empty(tuple(shape), np.uint8)
        return self._transfers.place(shape)

    # -- before the batch ---------------------------------------------------------------------

    def stage(
        self, picture: Bytes, mask: Bytes, padding: Sequence[int], original_size: Sequence[int]
    ) -> Shown | None:
        """Starts to copy H×W×3 RGB and H×W; None for a picture that the host must handle.

        Those are pictures without a hole, of a size that would have to be padded, with a very large
        result, with a hole longer than a window, or for which the device has no memory at present.
        `padding` is (top, right, bottom, left), which leaves something.
        """
        top, right, bottom, left = padding
        try:
            if self.region == "mask":
                return self._stage_windows(picture, mask, (top, right, bottom, left))
            return self._stage_whole(picture, mask, (top, right, bottom, left), original_size)
        except RuntimeError:  # a worse failure shows in the next batch
            return None

    def _stage_whole(
        self,
        picture: Bytes,
        mask: Bytes,
        padding: tuple[int, int, int, int],
        original_size: Sequence[int],
    ) -> Shown | None:
        height, width = original_size
        # What the network is shown, what is kept of it, and where a hole counts.
        window = content_window((mask.shape[0], mask.shape[1]), padding)
        if self.region == "full":
            frame = counts = whole(mask)
        else:
            frame = window.frame
            counts = window.core.moved(-frame.top, -frame.left)
        if not self._fits(frame.size) or height * width > MOST_RESTORED:
            return None
        hole = mask[frame.slices] > self._threshold
        if not hole[counts.slices].any():
            return None
        # Rows cross the bus whole, and their columns are cut on the device: only what is in one
        # piece in pinned memory is copied without the host.
        rows, columns = frame.slices
        staged = self._transfers.upload(picture[rows], mask[rows])
        part = Part(
            staged.picture[:, columns],
            staged.mask[:, columns],
            frame.padding(window.core),
            (height, width),
            cells_with(hole, self._engine.network.unit),
        )
        return Shown([part], partial(_shaped, (height, width)), staged)

    def _stage_windows(
        self, picture: Bytes, mask: Bytes, padding: tuple[int, int, int, int]
    ) -> Shown | None:
        hole = mask > self._threshold
        if not hole.any():
            return None
        sheet = Sheet(picture, hole, padding, "mask")
        windows = sheet.windows
        # A window of a later turn needs the fills of earlier ones.
        if any(window.turn or not self._fits(window.frame.size) for window in windows):
            return None
        if not windows:
            return Shown([], partial(_pasted, sheet), None)
        frames = [window.frame for window in windows]
        areas = [frame.size[0] * frame.size[1] for frame in frames]
        pictures, masks = (self._transfers.place((many * sum(areas),)) for many in (3, 1))
        for frame, (start, end) in zip(frames, pairwise((0, *accumulate(areas))), strict=True):
            pictures[3 * start : 3 * end].reshape(*frame.size, 3)[...] = sheet.picture[frame.slices]
            masks[start:end].reshape(frame.size)[...] = sheet.mask(frame)
        staged = self._transfers.upload(pictures, masks)
        parts = [
            Part(
                shown.view(*window.frame.size, 3),
                holes.view(window.frame.size),
                window.frame.padding(window.core),
                window.core.size,
            )
            for window, shown, holes in zip(
                windows,
                staged.picture.split_with_sizes([3 * area for area in areas]),
                staged.mask.split_with_sizes(areas),
                strict=True,
            )
        ]
        return Shown(parts, partial(_pasted, sheet), staged)

    def _fits(self, size: tuple[int, int]) -> bool:
        return all(padded_side(side, self._unit) == side for side in size)

    # -- the batch ----------------------------------------------------------------------------

    def fill(self, shown: Sequence[Shown]) -> list[Arriving]:
        """Pictures on their way back: filled, without padding, in their original size, BGR.

        They are within one level of the host's results, and equal where nothing is resized. With
        the region `mask` they are on their canvas instead, RGB, and equal. Waits for nothing, so
        that the next batch may be launched before this one is computed.
        """
        groups = list(self._groups([part for one in shown for part in one.parts]))
        is_bgr = self.region != "mask"
        batch = Launched(self._engine, self._transfers, self._threshold, shown, groups, is_bgr)
        return [Arriving(batch, index) for index in range(len(shown))]

    def _groups(self, parts: Sequence[Part]) -> Iterator[Group]:
        """The parts of each size, at most as many as are computed at once."""
        sizes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, part in enumerate(parts):
            height, width = part.mask.shape
            sizes[height, width].append(number)
        for (height, width), numbers in sizes.items():
            if self.region == "mask":
                most = max(1, MOST_AT_ONCE // (height * width))
                for first in range(0, len(numbers), most):
                    yield from self._recorded(numbers[first : first + most], height, width)
                continue
            cells = sum(parts[number].cells for number in numbers)
            windows = self._engine.windows(cells, len(numbers), height, width)
            if windows or self.region != "full":
                self._frequent.note((len(numbers), height, width, windows))
            yield Group(numbers, windows)

    def _recorded(self, numbers: Sequence[int], height: int, width: int) -> Iterator[Group]:
        """Windows in numbers that are recorded, if they all are."""
        for piece in pieces(self._frequent, self._engine.is_recorded, len(numbers), height, width):
            yield Group(numbers[piece])


def _shaped(size: tuple[int, int], found: Bytes) -> Bytes:
    """The picture from its bytes."""
    return found.reshape(*size, 3)


def _pasted(sheet: Sheet, found: Bytes) -> Bytes:
    """The picture with what was found in the cores of its windows, one after another."""
    sizes = [window.core.size for window in sheet.windows]
    ends = accumulate(3 * height * width for height, width in sizes)
    cores = [
        found[start:end].reshape(*size, 3)
        for size, (start, end) in zip(sizes, pairwise((0, *ends)), strict=True)
    ]
    # In the order of `Parts`: cores may overlap.
    order: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, window in enumerate(sheet.windows):
        order[window.frame.size].append(number)
    for numbers in order.values():
        for number in numbers:
            sheet.paste_core(sheet.windows[number], cores[number])
    return sheet.picture
