"""Inference of whole canvases on a GPU, to which pictures are copied before it is their turn.

Each picture crosses the bus as bytes, once in each direction, and copies run while the network
does. The device does the work that `batch_inference` and `lama.padding` do on the host.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import torch

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
#: computed and stored at the same time, and the results of the latter two.
BLOCKS = 3 * 2 + 2


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
        self._transfers = Transfers(streams or Cuda(where), BLOCKS * batch, 3 * pixels)

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
    ) -> list[Download]:
        """Pictures on their way back: filled, without padding, in their original size, BGR.

        They are within one level of the host's results, and equal where nothing is resized.
        Raises FloatingPointError for weights that give no finite output.
        """
        sizes: dict[torch.Size, list[int]] = defaultdict(list)
        for index, picture in enumerate(staged):
            sizes[picture.mask.shape].append(index)
        results: dict[int, Download] = {}
        for group in sizes.values():
            finish = [
                partial(restored, padding=paddings[i], original_size=original_sizes[i])
                for i in group
            ]
            filled = self._engine.fill_staged(
                [staged[i] for i in group], self._threshold, self._transfers, finish
            )
            for index, download in zip(group, filled, strict=True):
                if download is None:
                    raise FloatingPointError(
                        f"picture {index} of the batch: the network's output is not finite, in "
                        "float32 either; use other weights"
                    )
                results[index] = download
        return [results[index] for index in range(len(staged))]
