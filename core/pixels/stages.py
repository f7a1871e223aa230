"""The first and the last stage of a batch: payloads to pixels, and filled pictures to results.

They do not use Redis. The stage between them is `core.network`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from core.claims import Claim
from core.config import Settings
from core.contract import Job, Segment, expiry, parse_job
from core.errors import BadMessage, JobError
from core.pixels import shm
from core.pixels.arrays import Picture
from core.pixels.handover import Loaded, Restored, Staging
from core.pixels.values import as_mask, as_picture
from core.telemetry import log_extra
from lama.padding import without_padding

log = logging.getLogger(__name__)


class Loader:
    """The load stage: from a payload to pixels."""

    def __init__(
        self,
        settings: Settings,
        staging: Callable[[], Staging | None] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`staging` is called for every job, because a network may offer staging later.

        `now` returns the time, in unix seconds, by which jobs expire.
        """
        self._settings = settings
        self._now = now
        self._uids = settings.uids
        self._staging = staging

    def __call__(self, claim: Claim) -> Loaded:
        """Parse and read one job.

        Raises JobError, such as Expired, or OutOfSharedMemory if there is no room for the result
        at present.
        """
        began_at = time.time()
        job = parse_job(claim.payload, self._settings.wire_format)
        if expired := expiry(job, self._now()):
            raise expired
        if job.is_long != (claim.kind == "long"):
            log.warning(
                "request %s says is_long=%s but came from the %s queue, which decides",
                job.request_id,
                job.is_long,
                claim.kind,
                extra=log_extra(job.request_id),
            )
        _require_room(job)
        staging = self._staging()
        image, owner = self._read(job.image, staging)
        is_grey = job.mask.shape[2:] in ((), (1,))
        mask = as_mask(job.mask, self._read(job.mask, staging if is_grey else None)[0])
        self._check_holes(job, "mask", job.mask, mask)
        original = self._original(job)
        loaded = Loaded(
            job,
            as_picture(job.image, image),
            mask,
            original,
            owner,
            began_at,
            original_mask=None if original is None else self._original_mask(job),
        )
        if staging is None:
            return loaded
        staged = staging.stage(loaded.image, loaded.mask, job.padding, job.original_size)
        return replace(loaded, staged=staged)

    def _read(
        self, segment: Segment, staging: Staging | None = None
    ) -> tuple[npt.NDArray[Any], int]:
        """A segment's array and the uid of its owner."""
        where = segment.name, segment.shape, segment.dtype, self._uids
        if staging is None or segment.dtype != np.uint8:
            return shm.read(*where)
        return shm.read(*where, place=lambda shape, _: staging.place(shape))

    def _check_holes(self, job: Job, what: str, segment: Segment, mask: Picture) -> None:
        """Log a mask that has values, and none above the threshold. Refuse one of 0 and 1.

        The latter never has a hole, so its job would be done with all of its text.
        """
        threshold = self._settings.mask_threshold
        highest = int(mask.max()) if threshold else 0
        if highest == 1:
            raise BadMessage(
                "bad_values",
                f"segment {segment.name!r} is a mask of 0 and 1, in which nothing is above "
                f"MASK_THRESHOLD={threshold}: send 255 where a hole is, or set MASK_THRESHOLD=0",
            )
        if 0 < highest <= threshold:
            log.warning(
                "request %s has no hole: its %s has values up to %d, none above MASK_THRESHOLD=%d",
                job.request_id,
                what,
                highest,
                threshold,
                extra=log_extra(job.request_id),
            )

    def _original(self, job: Job) -> Picture | None:
        if job.original is None or not self._settings.composite_original:
            return None
        try:
            if isinstance(job.original, BadMessage):
                raise job.original
            return self._read(job.original)[0]
        except JobError as error:
            _warn_without("original", job, error)
            return None

    def _original_mask(self, job: Job) -> Picture | None:
        if job.original_mask is None:
            return None
        try:
            if isinstance(job.original_mask, BadMessage):
                raise job.original_mask
            mask = as_mask(job.original_mask, self._read(job.original_mask)[0])
            self._check_holes(job, "original's mask", job.original_mask, mask)
        except JobError as error:
            _warn_without("original's mask", job, error)
            return None
        return mask


class Finisher:
    """The store stage: from the network's picture to the one that is delivered."""

    def __init__(self, mask_threshold: int) -> None:
        self._threshold = mask_threshold

    def __call__(self, loaded: Loaded, picture: Picture | Restored) -> Picture:
        """BGR, `original_size` × 3: padding cut off, resized, the original kept outside the hole.

        The hole is that of the original's mask, or else of the mask on the canvas. The latter is
        always resized here, on the CPU: a device's resize may differ by one level, which would
        change which pixels are in the hole.
        """
        job = loaded.job
        result = picture.pixels if isinstance(picture, Restored) else _restored(job, picture)
        if loaded.original is not None:
            mask = loaded.original_mask
            if mask is None:
                mask = without_padding(loaded.mask, job.padding, job.original_size)
            kept = (mask <= self._threshold).view(np.uint8)
            cv2.copyTo(loaded.original, kept, result)
        return result

    def before(self, loaded: Loaded) -> Picture:
        """The picture before inpainting: BGR, `original_size` × 3."""
        return _restored(loaded.job, loaded.image) if loaded.original is None else loaded.original


def _warn_without(what: str, job: Job, error: JobError) -> None:
    log.warning(
        "request %s is done without its %s: %s",
        job.request_id,
        what,
        error,
        extra=log_extra(job.request_id),
    )


def _restored(job: Job, picture: Picture) -> Picture:
    """RGB on the canvas to BGR, `original_size` × 3."""
    content = without_padding(picture, job.padding, job.original_size)
    # Reversing the channels with NumPy takes forty times as long.
    return np.asarray(cv2.cvtColor(content, cv2.COLOR_RGB2BGR), np.uint8)


def _require_room(job: Job) -> None:
    """Refuse a job whose result does not fit into /dev/shm beside its own inputs.

    Raises BadMessage if it can never fit, OutOfSharedMemory if there is no room at present.
    """
    result = math.prod(job.original_size) * 3
    needed = sum(map(shm.footprint, (result, job.image.size, job.mask.size)))
    whole = shm.size_bytes()
    if whole and needed > whole:
        raise BadMessage(
            "too_large",
            f"the result and its inputs take {needed} bytes of {shm.SHM_FOLDER}, which holds "
            f"{whole} in all: enlarge it (shm_size, or ipc: host)",
        )
    shm.require_room(result)
