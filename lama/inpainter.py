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
from lama.engine.precision import decide
from lama.engine.transfers import Staged
from lama.halving import is_out_of_memory
from lama.inference import batch_inference, engine_of, load_lama_model, prepare
from lama.regions import Padding, Parts, Region
from lama.staged import Arriving, StagedInference

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
        """On a GPU that is shown whole pictures, gets ready for `batches` (count, height, width).

        That happens in a thread of its own while pictures are filled already, but in the calling
        thread if large holes are refined.
        """
        if self.device == "cpu" or self.region != "full":
            return
        if self._refiner is not None:
            # It uses the GPU without the engine, which no other thread may while graphs are
            # recorded.
            self.get_ready(batches)
        else:
            threading.Thread(
                target=self.get_ready, args=(batches,), name="prepare", daemon=True
            ).start()

    def get_ready(self, batches: Sequence[tuple[int, int, int]]) -> None:
        """Records graphs for `batches`, then takes pinned memory for staging.

        A failure is only logged: without either the device works too, but slower.
        """
        try:
            prepare(self.model, self.device, self._use_fp16, batches)
            if self._refiner is None:
                # Only now, as other threads may use the GPU from here on.
                self.staging = StagedInference(
                    self.model,
                    self.device,
                    self._use_fp16,
                    self._threshold,
                    batch=max(count for count, _, _ in batches),
                    pixels=max(height * width for _, height, width in batches),
                )
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
                part.paste(self.infer(part.images, part.masks))
            filled = parts.filled
        if self._refiner is None:
            return filled
        self._note_progress()
        return self._refiner(images, masks, filled, paddings)

    def infer(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The network alone, on whole pictures, without regions or refinement."""
        return batch_inference(
            images,
            masks,
            self.model,
            self._config,
            self.device,
            self._use_fp16,
            self._threshold,
        )

    def fill_staged(
        self,
        staged: Sequence[Staged],
        paddings: Sequence[Padding],
        original_sizes: Sequence[Sequence[int]],
    ) -> list[Arriving]:
        """Pictures that `staging` has taken to the device, on their way back: finished, BGR."""
        assert self.staging is not None
        return self.staging.fill(staged, paddings, original_sizes)

    def _note_progress(self) -> None:
        self.progressed_at = time.monotonic()

    # -- the device ---------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine that computes on this device."""
        return engine_of(self.model, self.device, self.precision.dtype)

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
