"""LaMa for the worker: the only module of `core` that imports `lama` and, through it, torch.

It translates: settings to an Inpainter, jobs to arrays, errors to those of the worker. Torch takes
seconds to import, so the Inpainter is imported when a network is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from core.config import REQUIRE, Settings
from core.contract import CANVAS
from core.errors import DeviceFault, ModelUnavailable, NoGpu, TransientFailure
from core.keys import Kind
from core.machine import cpu_limit, keep_freed_memory
from core.pixels.handover import Filled, Loaded, Network, Pending, Picture, Restored, is_pending
from core.telemetry import log_extra
from lama.devices import Torch, device_memory, installed_torch
from lama.halving import explained, halved, is_out_of_memory
from lama.limits import bound_kernel_caches, bound_threads

if TYPE_CHECKING:
    from lama.inpainter import Inpainter as Inpainter  # a public name for annotations
    from lama.regions import Region
    from lama.staged import StagedInference

__all__ = [
    "LaMa",
    "Torch",
    "check_device",
    "device_memory",
    "full_batches",
    "halving",
    "installed_torch",
    "load_inpainter",
    "settle_memory",
]

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def settle_memory() -> None:
    """Sets how a process with a network uses memory; before it starts threads or loads torch."""
    keep_freed_memory()
    bound_kernel_caches()


def load_inpainter(settings: Settings, region: Region | None = None) -> Inpainter:
    """The inpainter that the settings describe, with another region if one is given.

    Raises ModelUnavailable, or NoGpu, with one clear sentence.
    """
    from lama.inpainter import Inpainter

    if settings.use_cuda == REQUIRE and installed_torch().gpu is None:
        raise NoGpu(f"USE_CUDA=require, but no CUDA device can be used: {NoGpu.FIX}")
    bound_threads(cpu_limit())
    try:
        return Inpainter(
            settings.lama_config_path,
            settings.lama_checkpoint_path,
            use_cuda=bool(settings.use_cuda),
            use_fp16=settings.use_fp16,
            region=region or settings.inpaint_region,
            refine=settings.refine,
            mask_threshold=settings.mask_threshold,
        )
    except Exception as error:
        raise ModelUnavailable(
            f"the model cannot be loaded: {error} (LAMA_CHECKPOINT_PATH and, if it is set, "
            "LAMA_CONFIG_PATH name its files)"
        ) from error


def check_device(inpainter: Inpainter) -> None:
    """After a failure: gives memory back; raises DeviceFault if the device fails at everything."""
    from lama.inpainter import DeviceBroken

    try:
        inpainter.check_device()
    except DeviceBroken as error:
        raise DeviceFault(f"{error}: the process ends, its jobs are given back") from error


class LaMa(Network):
    """The worker's network: an Inpainter that takes and returns jobs."""

    def __init__(self, settings: Settings) -> None:
        """Loads the configured weights; raises ModelUnavailable or NoGpu."""
        self.inpainter = load_inpainter(settings)
        self._batches = full_batches(settings.batch_sizes)
        self._wants_gpu = bool(settings.use_cuda)
        if self.lacks_gpu:
            log.warning("USE_CUDA=1, but no CUDA device can be used; the CPU is: %s", NoGpu.FIX)

    @property
    def lacks_gpu(self) -> bool:
        return self._wants_gpu and self.inpainter.device == "cpu"

    @property
    def staging(self) -> StagedInference | None:
        return self.inpainter.staging

    @property
    def progressed_at(self) -> float:
        return self.inpainter.progressed_at

    @property
    def half_fallbacks(self) -> int:
        return self.inpainter.half_fallbacks

    def prepare(self) -> None:
        self.inpainter.prepare(self._batches)

    def describe(self) -> str:
        return self.inpainter.describe()

    def __call__(self, batch: Sequence[Loaded]) -> Sequence[Filled]:
        return halving(self._fill, batch, self.check_device)

    def check_device(self) -> None:
        """After a failure: gives memory back; raises DeviceFault if nothing can be computed."""
        check_device(self.inpainter)

    def _fill(self, batch: Sequence[Loaded]) -> list[Picture | Pending]:
        here = [loaded for loaded in batch if loaded.staged is None]
        there = [loaded for loaded in batch if loaded.staged is not None]
        from_here = iter(self._fill_here(here) if here else ())
        from_there = iter(self._fill_there(there) if there else ())
        return [next(from_here) if loaded.staged is None else next(from_there) for loaded in batch]

    def _fill_here(self, batch: Sequence[Loaded]) -> list[Picture]:
        return self.inpainter.fill(
            [loaded.image for loaded in batch],
            [loaded.mask for loaded in batch],
            [loaded.job.padding for loaded in batch],
        )

    def _fill_there(self, batch: Sequence[Loaded]) -> Sequence[Pending]:
        """Fills pictures that are staged on the device."""
        return self.inpainter.fill_staged([loaded.staged for loaded in batch])

    def collect(self, pictures: Sequence[Filled]) -> list[Filled]:
        return [self._arrived(picture) if is_pending(picture) else picture for picture in pictures]

    def _arrived(self, picture: Pending) -> Filled:
        """The picture; why there is none, if the network or the device failed at it."""
        try:
            pixels = picture.result()
            return pixels if self.inpainter.region == "mask" else Restored(pixels)
        except FloatingPointError as error:
            return TransientFailure("inference_failed", f"the network failed: {error}")
        except RuntimeError as error:
            reason = "out_of_memory" if is_out_of_memory(error) else "inference_failed"
            text = f"a picture did not arrive from {self.inpainter.device}: {error}"
        self.check_device()
        return TransientFailure(reason, text)


def full_batches(largest: Mapping[Kind, int]) -> list[tuple[int, int, int]]:
    """Batches (count, height, width) of whole canvases to prepare for, the largest first.

    The `largest` of a kind, powers of two and those up to 4: each takes seconds. Batches of other
    sizes are computed without a recording.
    """
    return [
        (count, *CANVAS[kind])
        for count in range(max(largest.values()), 0, -1)
        for kind in Kind
        if count == largest[kind] or (count < largest[kind] and _is_common(count))
    ]


def _is_common(count: int) -> bool:
    """Whether batches of this size are worth a recording: small ones, and powers of two."""
    return count <= 4 or count & (count - 1) == 0


# -- a batch that fails -----------------------------------------------------------------------


def halving(
    infer: Callable[[Sequence[Loaded]], Sequence[Result]],
    batch: Sequence[Loaded],
    check_device: Callable[[], None] = lambda: None,
) -> list[Result | TransientFailure]:
    """`lama.halving.halved` for jobs: failures are TransientFailures, and the log names requests.

    A stub network has the same failures by calling this.
    """
    return halved(infer, batch, _failure, check_device, _log_halved)


def _failure(loaded: Loaded, error: Exception) -> TransientFailure:
    request_id = loaded.job.request_id
    if not is_out_of_memory(error):
        extra = log_extra(request_id)
        log.error("inference failed for request %s", request_id, exc_info=error, extra=extra)
    return TransientFailure(*explained(loaded.image, error))


def _log_halved(batch: Sequence[Loaded], error: Exception) -> None:
    requests = [loaded.job.request_id for loaded in batch]
    # Its text only: a handler may keep what it is given.
    log.warning(
        "inference failed for a batch of %d (%s): halved: %s",
        len(batch),
        str(error),
        ", ".join(requests),
        extra=log_extra(*requests),
    )
