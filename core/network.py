"""The second stage: LaMa, on the GPU if there is one and it may be used.

This is the one place where the worker meets the network, which is imported only when it is loaded:
torch takes seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.config import Settings
from core.contract import CANVAS
from core.cores import bound_threads
from core.errors import DeviceFault, ModelUnavailable, TransientFailure
from core.halving import halving, is_out_of_memory
from core.keys import Kind
from core.pixels.handover import Filled, Loaded, Network, Pending, Picture, Restored, is_pending
from lama.regions import Padding

log = logging.getLogger(__name__)


class LaMa(Network):
    """The network that the settings name, with all that it needs to fill batches."""

    def __init__(self, settings: Settings) -> None:
        """Load the configured weights; raises ModelUnavailable with one clear sentence."""
        import torch

        from lama import inference, regions
        from lama.engine.precision import decide

        bound_threads()
        self._inference = inference
        self._regions = regions
        self._region = settings.inpaint_region
        self._use_half = settings.use_fp16
        self._threshold = settings.mask_threshold
        self._wants_cuda = settings.use_cuda
        self._settings = settings
        #: Where a full canvas is best loaded to, once the device is prepared.
        self.staging: Any = None
        self.device = "cuda" if self._wants_cuda and torch.cuda.is_available() else "cpu"
        try:
            self.precision = decide(self.device, self._use_half)
            self._model, self._config = inference.load_lama_model(
                str(settings.lama_config_path), str(settings.lama_checkpoint_path), self.device
            )
            # A first picture finds a broken device, and pays for what the first one always costs.
            picture = np.zeros((64, 64, 3), np.uint8)
            self._infer([picture], [np.full((64, 64), 255, np.uint8)])
            self._refine = self._refiner() if settings.refine else None
        except Exception as error:
            raise ModelUnavailable(
                f"the model cannot be loaded: {error} (LAMA_CONFIG_PATH and LAMA_CHECKPOINT_PATH "
                "name its files)"
            ) from error

    def prepare(self) -> None:
        """On a GPU, make ready for full canvases while the first jobs are already claimed."""
        if self.device == "cpu" or self._region != "full":
            return
        if self._refine is not None:
            # It uses the GPU beside the engine, which nobody may while graphs are recorded.
            self._make_ready()
        else:
            threading.Thread(target=self._make_ready, name="prepare", daemon=True).start()

    def _make_ready(self) -> None:
        """Without any of it the device works as well, only slower."""
        from lama.staged import StagedInference

        batches = full_batches(self._settings)
        try:
            self._inference.prepare(self._model, self.device, self._use_half, batches)
            if self._refine is None:
                # Only now, as other threads may use the GPU from here on.
                self.staging = StagedInference(
                    self._model, self.device, self._use_half, self._threshold,
                    batch=max(count for count, _, _ in batches),
                    pixels=max(height * width for _, height, width in batches),
                )  # fmt: skip
        except RuntimeError as error:
            log.warning("%s is not made ready: %s", self.device, str(error).splitlines()[0])

    def _refiner(self) -> Any:
        from lama.refinement import Refiner

        return Refiner(
            self._model, self.device, self._infer, dtype=self.precision.dtype,
            mask_threshold=self._threshold, progressed=self._progressed,
        )  # fmt: skip

    def _progressed(self) -> None:
        self.progressed_at = time.monotonic()

    def describe(self) -> str:
        """Device, precision with its reason, and what the network is shown, for the log."""
        missing = " (USE_CUDA=1, but no CUDA device can be used)" * (self._wants_cuda)
        refined = ", refined" * (self._refine is not None)
        device = f"{self.device}{missing if self.device == 'cpu' else ''}"
        return f"{device}, {self.precision}, {self._region}{refined}"

    @property
    def half_fallbacks(self) -> int:
        """Pictures computed again in float32 so far, because half precision overflowed."""
        return int(self._engine().half_fallbacks)

    def _engine(self) -> Any:
        return self._inference.engine_of(self._model, self.device, self.precision.dtype)

    def __call__(self, batch: Sequence[Loaded]) -> Sequence[Filled]:
        return halving(self._inpaint, batch, self.check_device)

    def collect(self, pictures: Sequence[Filled]) -> list[Filled]:
        """What `__call__` gave, when all of it has arrived from the device."""
        return [self._arrived(one) if is_pending(one) else one for one in pictures]

    def _arrived(self, picture: Any) -> Filled:
        try:
            return Restored(picture.result())
        except RuntimeError as error:
            text = str(error)
        self.check_device()
        return TransientFailure("inference_failed", f"a copy from {self.device} failed: {text}")

    def layout(self) -> str:
        """The network's size, for people."""
        parameters = sum(one.numel() for one in self._model.parameters())
        config = self._model.generator.config
        return f"LaMa with {config.n_blocks} blocks, ngf {config.ngf}, {parameters:,} parameters"

    def fill(self, images: Sequence[Picture], masks: Sequence[Picture]) -> list[Picture]:
        """Pictures (H×W×3 RGB) with their holes (H×W masks) filled; may raise anything."""
        return self._infer(images, masks)

    def check_device(self) -> None:
        """After a failure: give cached memory back; raises DeviceFault if the GPU cannot add.

        An illegal access, say, breaks a GPU for all that the process asks of it from then on.
        """
        if self.device == "cpu":
            return
        import torch

        try:
            self._engine().give_back_memory()
            torch.ones(1, device=self.device).add(1).item()
        except Exception as error:
            if not is_out_of_memory(error):
                raise DeviceFault(
                    f"{self.device} fails at everything ({error}): the process ends, its jobs "
                    "are given back"
                ) from error

    def _inpaint(self, batch: Sequence[Loaded]) -> list[Picture | Pending]:
        if self.staging is None:
            return list(self._inpaint_here(batch))
        filled: dict[int, Picture | Pending] = {}
        for there in (False, True):
            part = [i for i, one in enumerate(batch) if (one.staged is not None) == there]
            if part:
                fill = self._inpaint_there if there else self._inpaint_here
                filled |= zip(part, fill([batch[i] for i in part]), strict=True)
        return [filled[i] for i in range(len(batch))]

    def _inpaint_there(self, batch: Sequence[Loaded]) -> Sequence[Pending]:
        """What is staged; it comes back finished."""
        pictures: Sequence[Pending] = self.staging.fill(
            [one.staged for one in batch],
            [one.job.padding for one in batch],
            [one.job.original_size for one in batch],
        )
        return pictures

    def _inpaint_here(self, batch: Sequence[Loaded]) -> list[Picture]:
        images, masks = [one.image for one in batch], [one.mask for one in batch]
        paddings = [one.job.padding for one in batch]
        pictures: list[Picture] = self._regions.inpaint(
            self._infer, images, masks, self._region, paddings, self._threshold
        )
        return self.refined(images, masks, pictures, paddings)

    def refined(
        self,
        images: Sequence[Picture],
        masks: Sequence[Picture],
        filled: list[Picture],
        paddings: Sequence[Padding] | None = None,
    ) -> list[Picture]:
        """What was `filled`, with `REFINE=1` its large holes refined; may raise anything."""
        if self._refine is None:
            return filled
        self._progressed()
        pictures: list[Picture] = self._refine(images, masks, filled, paddings)
        return pictures

    def _infer(self, images: Sequence[Picture], masks: Sequence[Picture]) -> list[Picture]:
        pictures: list[Picture] = self._inference.batch_inference(
            images_np=images,
            masks_np=masks,
            model=self._model,
            train_config=self._config,
            device=self.device,
            use_fp16=self._use_half,
            mask_threshold=self._threshold,
        )
        return pictures


def full_batches(settings: Settings) -> list[tuple[int, int, int]]:
    """All batches (count, height, width) of whole canvases that may come, the largest first."""
    largest = {
        Kind.SHORT: settings.inpainting_batch_size_short,
        Kind.LONG: settings.inpainting_batch_size_long,
    }
    counts = range(max(largest.values()), 0, -1)
    return [(n, *CANVAS[kind]) for n in counts for kind in Kind if n <= largest[kind]]
