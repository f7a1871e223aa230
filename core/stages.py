"""The three stages of a batch: load its pictures, fill their holes, store the results.

No Redis in here. Each stage runs in a thread of its own. This is the one place where the worker
meets the network, which is imported only when it is loaded: torch takes seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from core import shm
from core.config import Settings
from core.contract import CANVAS, Job, Segment, parse_job
from core.errors import BadMessage, DeviceFault, JobError, ModelUnavailable, TransientFailure
from core.halving import halving, is_out_of_memory
from core.handover import Filled, Loaded, Pending, Picture, Restored, Staging, is_pending
from core.keys import Kind
from core.queues import Claim
from core.telemetry import about
from lama.padding import without_padding
from lama.regions import Padding

log = logging.getLogger(__name__)


class Loader:
    """The first stage: from a payload to pixels."""

    def __init__(
        self, settings: Settings, staging: Callable[[], Staging | None] = lambda: None
    ) -> None:
        """`staging` is asked for every job, as a network may be ready for it only later."""
        self._settings = settings
        self._uids = settings.uids
        self._staging = staging

    def __call__(self, claim: Claim) -> Loaded:
        """Parse and read one job; raises JobError."""
        began_at = time.time()
        job = parse_job(claim.payload, self._settings)
        if job.is_long != (claim.kind == "long"):
            log.warning(
                "request %s says is_long=%s but came from the %s queue, which decides",
                job.request_id, job.is_long, claim.kind, extra=about(job.request_id),
            )  # fmt: skip
        staging = self._staging()
        image, owner = self._read(job.image, staging)
        mask = self._read(job.mask, staging)[0].reshape(job.mask.shape[:2])
        loaded = Loaded(
            job,
            _picture(job.image, image),
            self._grey(job.mask, mask),
            self._original(job),
            owner,
            began_at,
        )
        if staging is None:
            return loaded
        return replace(loaded, staged=staging.stage(loaded.image, loaded.mask, job.original_size))

    def _read(
        self, segment: Segment, staging: Staging | None = None
    ) -> tuple[npt.NDArray[Any], int]:
        """A segment's array and the uid that it belongs to."""
        where = segment.name, segment.shape, segment.dtype, self._uids
        if staging is None or segment.dtype != np.uint8:
            return shm.read(*where)
        return shm.read(*where, place=lambda shape, _: staging.place(shape))

    def _grey(self, segment: Segment, mask: npt.NDArray[Any]) -> Picture:
        """A mask of any dtype as uint8 with the same holes."""
        if mask.dtype == np.uint8:
            return mask
        if mask.dtype == np.bool_:
            return mask.astype(np.uint8) * np.uint8(255)
        _require_finite(segment, mask)
        return np.where(mask > self._settings.mask_threshold, 255, 0).astype(np.uint8)

    def _original(self, job: Job) -> Picture | None:
        if job.original is None or not self._settings.composite_original:
            return None
        try:
            if isinstance(job.original, BadMessage):
                raise job.original
            return self._read(job.original)[0]
        except JobError as error:
            log.warning(
                "request %s is done without its original: %s",
                job.request_id, error, extra=about(job.request_id),
            )  # fmt: skip
            return None


class LaMa:
    """The network of the second stage, on the GPU if there is one and it may be used."""

    def __init__(self, settings: Settings) -> None:
        """Load the configured weights; raises ModelUnavailable with one clear sentence."""
        import torch

        from lama import regions
        from lama.bin import inference
        from lama.engine.precision import decide

        self._inference = inference
        self._regions = regions
        self._region = settings.inpaint_region
        self._use_half = settings.use_fp16
        self._threshold = settings.mask_threshold
        self._wants_cuda = settings.use_cuda
        self._settings = settings
        #: Where a full canvas is best loaded to, once the device is prepared.
        self.staging: Any = None
        self.progressed_at = 0.0
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
        from lama.bin.staged import StagedInference

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
                    f"{self.device} fails at everything ({error}): the process ends, its batch "
                    "stays in the processing list"
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


class Finisher:
    """The third stage: from the network's picture to the one that the consumer gets."""

    def __init__(self, settings: Settings) -> None:
        self._threshold = settings.mask_threshold

    def __call__(self, loaded: Loaded, picture: Picture | Restored) -> Picture:
        """BGR, `original_size` × 3: padding cut off, resized, the original kept around the hole.

        The mask is always resized here: by a level more or less a pixel would be in the hole or
        not. A device restores pictures to within a level.
        """
        job = loaded.job
        result = picture.pixels if isinstance(picture, Restored) else _restored(job, picture)
        if loaded.original is not None:
            mask = without_padding(loaded.mask, job.padding, job.original_size)
            kept = (mask <= self._threshold).view(np.uint8)
            cv2.copyTo(loaded.original, kept, result)
        return result

    def before(self, loaded: Loaded) -> Picture:
        """The same picture as it came: BGR, `original_size` × 3."""
        return _restored(loaded.job, loaded.image) if loaded.original is None else loaded.original


def _restored(job: Job, picture: Picture) -> Picture:
    """RGB on the canvas to BGR, `original_size` × 3."""
    content = without_padding(picture, job.padding, job.original_size)
    # NumPy takes forty times as long to turn channels around.
    return np.asarray(cv2.cvtColor(content, cv2.COLOR_RGB2BGR), np.uint8)


def _picture(segment: Segment, image: npt.NDArray[Any]) -> Picture:
    """A picture of any dtype as uint8; floating-point values are on the same scale, 0 to 255."""
    if image.dtype == np.uint8:
        return image
    _require_finite(segment, image)
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255:
        raise BadMessage(
            "bad_values", f"segment {segment.name!r} has values from {low:g} to {high:g}, not 0…255"
        )
    rounded: Picture = np.rint(image).astype(np.uint8)
    return rounded


def _require_finite(segment: Segment, array: npt.NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise BadMessage("bad_values", f"segment {segment.name!r} contains NaN or infinity")
