"""`Inpainter`: LaMa on a device, for everything that fills holes in pictures.

The worker's adapter (`core/network.py`) and `bulk` both use it. It takes and returns arrays, and
knows neither jobs nor files of pictures.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lama.engine import Engine
from lama.engine.frequent import Frequent, pieces
from lama.engine.precision import decide
from lama.halving import is_out_of_memory
from lama.inference import batch_inference, engine_of, load_lama_model, prepare
from lama.launched import Arriving, Shown
from lama.padding import padded_side
from lama.regions import Padding, Parts, Region
from lama.staged import StagedInference

if TYPE_CHECKING:
    from lama.refinement import Refiner

logger = logging.getLogger(__name__)


class DeviceBroken(Exception):
    """The device fails at everything; only a new process can compute again."""


class Inpainter:
    """A loaded LaMa, with the region of a picture that it is shown, and refinement if wanted."""

    #: Takes pictures to the GPU before it is their turn, once `prepare` has made that possible.
    staging: StagedInference | None = None

    #: time.monotonic() of the last step of a refinement; 0 before the first.
    progressed_at: float = 0.0

    def __init__(
        self,
        config_path: str | os.PathLike[str] | None,
        checkpoint_path: str | os.PathLike[str],
        *,
        use_cuda: bool = False,
        use_fp16: bool = False,
        region: Region = "full",
        refine: bool = False,
        mask_threshold: int = 0,
    ) -> None:
        """Loads the weights, which a config must agree with, and fills a first picture.

        `use_cuda` and `use_fp16` allow a GPU and half precision where they are available. Raises
        what `load_lama_model` and the device raise.
        """
        self.device = "cuda" if use_cuda and torch.cuda.is_available() else "cpu"
        self.precision = decide(self.device, use_fp16)
        self.region = region
        self._use_cuda, self._use_fp16 = use_cuda, use_fp16
        self._threshold = mask_threshold
        self.model, self._config = load_lama_model(config_path, checkpoint_path, self.device)
        # The first picture shows whether the device works, and is the slowest.
        self.infer([np.zeros((64, 64, 3), np.uint8)], [np.full((64, 64), 255, np.uint8)])
        self._refiner = self._new_refiner() if refine else None
        self._frequent: Frequent | None = None

    def _new_refiner(self) -> Refiner:
        # Imported only where it is used: it needs kornia, which takes a while to import.
        from lama.refinement import Refiner

        return Refiner(
            self.model,
            self.device,
            use_fp16=self._use_fp16,
            mask_threshold=self._threshold,
            progressed=self._note_progress,
        )

    # -- getting ready ------------------------------------------------------------------------

    def prepare(self, batches: Sequence[tuple[int, int, int]]) -> None:
        """On a GPU, gets ready for `batches` of whole pictures (count, height, width).

        That happens in a thread of its own while pictures are filled already, but in the calling
        thread if large holes are refined. Windows around holes are got ready for as they occur.
        """
        if self.device == "cpu":
            return
        if self._refiner is not None:
            # It uses the GPU without the engine, which no other thread may while graphs are
            # recorded. Windows have any size and number, so they would be recorded at any time.
            if self.region != "mask":
                self.get_ready(batches)
        else:
            if self.region == "mask":
                self._frequent = Frequent(self.engine.prepare)
            threading.Thread(
                target=self.get_ready, args=(batches,), name="prepare", daemon=True
            ).start()

    def get_ready(self, batches: Sequence[tuple[int, int, int]]) -> None:
        """Records a graph for the first of `batches`, begins to stage, then records the others.

        With the region `mask` nothing is recorded here. A failure is only logged: without graphs
        and staging the device works too, but slower.
        """
        first, others = ([], []) if self.region == "mask" else (batches[:1], batches[1:])
        try:
            prepare(self.model, self.device, self._use_fp16, first)
            if self._refiner is None:
                self.staging = StagedInference(
                    self.model,
                    self.device,
                    self._use_fp16,
                    self._threshold,
                    batch=max(count for count, _, _ in batches),
                    pixels=max(height * width for _, height, width in batches),
                    region=self.region,
                    frequent=self._frequent,
                )
            # From here on other threads copy to the GPU while graphs are recorded.
            prepare(self.model, self.device, self._use_fp16, others)
        except RuntimeError as error:
            logger.warning("%s is not made ready: %s", self.device, str(error).splitlines()[0])

    # -- filling ------------------------------------------------------------------------------

    def fill(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        paddings: Sequence[Padding] | None = None,
    ) -> list[np.ndarray]:
        """The pictures with their holes filled: in the chosen region, refined if wanted.

        `images` are uint8 H×W×3 RGB, `masks` uint8 H×W, `paddings` what a letterbox has added to
        each picture. Raises what the network raises.
        """
        if self.region == "full":
            filled = self.infer(images, masks)
        else:
            parts = Parts(images, masks, self.region, paddings, self._threshold)
            for part in parts:
                part.paste(self._infer_part(part.images, part.masks))
            filled = parts.filled
        if self._refiner is None:
            return filled
        self._note_progress()
        return self._refiner(images, masks, filled, paddings)

    def infer(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The network alone, on whole pictures, without regions or refinement."""
        return self._infer(images, masks, self._use_fp16)

    def infer_exactly(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The same in float32; the first call makes a second network."""
        return self._infer(images, masks, False)

    def _infer(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], use_fp16: bool
    ) -> list[np.ndarray]:
        return batch_inference(
            images, masks, self.model, self._config, self.device, use_fp16, self._threshold
        )

    def _infer_part(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """`infer` for windows of one size, in numbers that are recorded, if they all are."""
        if self._frequent is None:
            return self.infer(images, masks)
        unit = self.model.generator.config.unit
        size = [padded_side(side, unit) for side in masks[0].shape[:2]]
        results: list[np.ndarray] = []
        for piece in pieces(self._frequent, self.engine.is_recorded, len(images), *size):
            results += self.infer(images[piece], masks[piece])
        return results

    def fill_staged(self, shown: Sequence[Shown]) -> list[Arriving]:
        """Pictures that `staging` has taken to the device, on their way back."""
        assert self.staging is not None
        return self.staging.fill(shown)

    def _note_progress(self) -> None:
        self.progressed_at = time.monotonic()

    # -- the device ---------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine that computes on this device."""
        return engine_of(self.model, self.device, self.precision.dtype)

    @property
    def half(self) -> str | None:
        """The name of the half precision that it computes in, if it does."""
        dtype = self.precision.dtype
        return None if dtype == torch.float32 else str(dtype).removeprefix("torch.")

    @property
    def half_fallbacks(self) -> int:
        """Pictures computed again in float32 so far, because half precision overflowed."""
        return self.engine.half_fallbacks

    def check_device(self) -> None:
        """After a failure: gives cached memory back, and raises DeviceBroken if a GPU cannot add.

        After an illegal access, for example, a GPU fails at everything that the process asks of it.
        """
        if self.device == "cpu":
            return
        try:
            self.engine.check_device()
        except Exception as error:
            if not is_out_of_memory(error):
                raise DeviceBroken(f"{self.device} fails at everything ({error})") from error

    # -- for people ---------------------------------------------------------------------------

    def describe(self) -> str:
        """Device, precision with its reason, region and refinement, as one line."""
        device = self.device
        if self._use_cuda and device == "cpu":
            device = f"{device} (USE_CUDA=1, but no CUDA device can be used)"
        refined = ", refined" if self._refiner is not None else ""
        return f"{device}, {self.precision}, {self.region}{refined}"

    def layout(self) -> str:
        """The network's size, as one line."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        config = self.model.generator.config
        return f"LaMa with {config.n_blocks} blocks, ngf {config.ngf}, {parameters:,} parameters"
