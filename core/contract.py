"""The wire contract: the format of jobs and of results.

A message is untrusted. `parse_job` validates all of it, so that no later stage has to.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np

from core import fields
from core.config import SEGMENT_NAME, WireFormat
from core.errors import BadMessage, Expired
from core.fields import MAX_ID_LENGTH as MAX_ID_LENGTH  # part of the contract
from core.fields import shown
from core.keys import Kind, sha1

#: Size of the network's canvas per kind: (height, width) in pixels.
CANVAS: Final = {Kind.LONG: (864, 1504), Kind.SHORT: (1024, 1024)}

#: The network computes a shorter side as if it had this many pixels.
LEAST_SIDE: Final = 16

#: So many pixels may be computed whatever MAX_IMAGE_PIXELS is: a small picture has short sides.
SMALL: Final = 1 << 20

#: Sizes of memory pages to which some systems round a segment's size up.
PAGE_BYTES: Final = (4 << 10, 16 << 10, 64 << 10)

#: The names of results after the prefix: worker, start of the payload's sha1, counter.
_RESULT_SUFFIX = re.compile(r"[A-Za-z0-9-]+-\d+-[0-9a-f]{12}-[0-9a-f]{12}-\d+")


@dataclass(frozen=True, slots=True)
class Segment:
    """An array in shared memory. `size` is the array's in bytes; the segment may be larger."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def to_json(self) -> str:
        """The segment as it is described in a result's hash."""
        return json.dumps(
            {
                "shm_name": self.name,
                "shape": list(self.shape),
                "dtype": self.dtype.name,
                "size": self.size,
            }
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A validated message, in pixels: sizes (height, width), paddings (top, right, bottom, left).

    `original` is None if the message names no original. It is a BadMessage if the one it names
    cannot be used; the job is then done without it. The same holds for `original_mask`, the hole at
    `original_size`. `expires_at` is in unix seconds.
    """

    request_id: str
    image_id: str
    original_size: tuple[int, int]
    padding: tuple[int, int, int, int]
    image: Segment
    mask: Segment
    original: Segment | BadMessage | None
    is_long: bool
    original_mask: Segment | BadMessage | None = None
    expires_at: float | None = None


def too_long(length: int, limit: int) -> BadMessage:
    """Why a message of so many bytes is refused."""
    return BadMessage(
        "too_long", f"the message has {length} bytes, more than MAX_MESSAGE_BYTES={limit}"
    )


def parse_job(payload: bytes, wire: WireFormat) -> Job:
    """The job that a payload describes.

    Raises BadMessage, with a reason, if it violates the contract or a limit.
    """
    if len(payload) > wire.max_message_bytes:
        raise too_long(len(payload), wire.max_message_bytes)
    message = fields.json_object(payload)
    limit = wire.max_image_pixels
    image = _segment(message, "preprocessed_img_shm_info", wire)
    mask = _segment(message, "preprocessed_mask_shm_info", wire)
    if len(image.shape) != 3 or image.shape[2] != 3:
        _refuse("bad_shape", f"a picture has shape [H, W, 3], not {shown(list(image.shape))}")
    if image.dtype == np.bool_:
        _refuse("bad_dtype", "a picture of dtype bool has no colours")
    _require_shape_of_mask(mask)
    if image.shape[:2] != mask.shape[:2]:
        _refuse(
            "size_mismatch",
            f"the picture is {by_width(image.shape)}, its mask {by_width(mask.shape)}",
        )
    height, width = fields.integers(message, "original_size", 2, minimum=1)
    if height * width > limit:
        _refuse(
            "too_large",
            f"original_size {shown([height, width])} is above the limit of {limit} pixels",
        )
    top, right, bottom, left = fields.integers(message, "padding_info", 4, minimum=0)
    if top + bottom >= image.shape[0] or left + right >= image.shape[1]:
        _refuse(
            "bad_padding",
            f"padding_info {shown([top, right, bottom, left])} leaves nothing of a picture of "
            f"{by_width(image.shape)}",
        )
    return Job(
        request_id=fields.identifier(message, "request_id"),
        image_id=fields.identifier(message, "image_id"),
        original_size=(height, width),
        padding=(top, right, bottom, left),
        image=image,
        mask=mask,
        original=_original(message, (height, width), wire),
        is_long=fields.flag(message, "is_long"),
        original_mask=_original_mask(message, (height, width), wire),
        expires_at=fields.optional_time(message, "expires_at"),
    )


def expiry(job: Job, now: float) -> Expired | None:
    """The error of a job that has expired at `now`, in unix seconds; None if it has not."""
    if job.expires_at is None or job.expires_at > now:
        return None
    return Expired(
        "expired",
        f"its expires_at was {now - job.expires_at:.1f} s ago when a worker came to it",
    )


def request_of(payload: bytes) -> tuple[str, str] | None:
    """Request and image id of a message, which may be invalid; None if it has no request id.

    A number is taken as its text. The image id is empty if the message has no usable one.
    """
    message = fields.readable_fields(payload)
    try:
        request_id = fields.text(message, "request_id")
    except BadMessage:
        return None
    try:
        return request_id, fields.text(message, "image_id")
    except BadMessage:
        return request_id, ""


def result_fields(job: Job, segment: Segment, kind: Kind, worker: str) -> dict[str, str]:
    """The hash of a finished job."""
    return {
        "image_id": job.image_id,
        "inpaint_shm_info": segment.to_json(),
        "is_long": "true" if kind is Kind.LONG else "false",
        "status": "done",
        "worker": worker,
    }


def input_names(payload: bytes, wire: WireFormat) -> list[str]:
    """The allowed input segments that a message names."""
    return allowed_inputs(named_inputs(payload), wire)


def named_inputs(payload: bytes) -> list[str]:
    """The segments that a message names as its inputs, allowed or not."""
    message = fields.readable_fields(payload)
    inputs = ("preprocessed_img_shm_info", "preprocessed_mask_shm_info")
    infos = [info for field in inputs if isinstance(info := message.get(field), dict)]
    names = [_without_slash(info.get("shm_name")) for info in infos]
    return [name for name in names if isinstance(name, str) and SEGMENT_NAME.fullmatch(name)]


def allowed_inputs(names: Iterable[str], wire: WireFormat) -> list[str]:
    """Those of the names that an input segment may have."""
    return [name for name in names if SEGMENT_NAME.fullmatch(name) and _is_input(name, wire)]


def result_name_start(worker: str, payload: bytes, *, prefix: str) -> str:
    """The prefix of the names of all segments that a worker writes for a payload.

    It identifies worker and payload, so that others can tell when a segment is orphaned.
    """
    return f"{prefix}{worker}-{sha1(payload)[:12]}-"


def is_result_name(name: str, prefix: str) -> bool:
    """Whether a segment's name is that of a worker's result; `prefix` is SHM_NAME_PREFIX."""
    return name.startswith(prefix) and bool(_RESULT_SUFFIX.fullmatch(name[len(prefix) :]))


def _segment(message: Mapping[str, Any], field: str, wire: WireFormat) -> Segment:
    info = fields.field(message, field)
    if not isinstance(info, dict):
        _refuse("bad_field", f"{field} is {shown(info)}, must be an object")
    try:
        name = _segment_name(info, wire)
        dtype = fields.dtype(info, "dtype")
        shape = fields.field(info, "shape")
        if not isinstance(shape, list) or not 2 <= len(shape) <= 3:
            _refuse("bad_shape", f"shape is {shown(shape)}, must be a list of 2 or 3 integers")
        shape = fields.integers(info, "shape", len(shape), minimum=1)
        if shape[0] * shape[1] > wire.max_image_pixels:
            _refuse(
                "too_large",
                f"shape {shown(shape)} is above MAX_IMAGE_PIXELS={wire.max_image_pixels}",
            )
        computed = max(shape[0], LEAST_SIDE) * max(shape[1], LEAST_SIDE)
        if computed > max(wire.max_image_pixels, SMALL):
            _refuse(
                "too_large",
                f"shape {shown(shape)} takes as much memory as {computed} pixels, since a side "
                f"counts as at least {LEAST_SIDE}: MAX_IMAGE_PIXELS={wire.max_image_pixels}",
            )
        segment = Segment(name, tuple(shape), dtype)
        size = fields.field(info, "size")
        if not _is_size_of(segment, fields.whole(size)):
            _refuse(
                "size_mismatch",
                f"size is {shown(size)}, shape {shown(shape)} of {dtype} has "
                f"{shown(segment.size)} bytes",
            )
    except BadMessage as error:
        raise BadMessage(error.reason, f"{field}: {error}") from None
    return segment


def _is_size_of(segment: Segment, size: int | None) -> bool:
    """Whether a size is the array's, or the array's rounded up to whole pages."""
    rounded = [-(-segment.size // page) * page for page in PAGE_BYTES]
    return size in (segment.size, *rounded)


def _segment_name(info: Mapping[str, Any], wire: WireFormat) -> str:
    given = fields.field(info, "shm_name")
    name = _without_slash(given)
    if not isinstance(name, str) or not SEGMENT_NAME.fullmatch(name):
        _refuse("bad_name", f"shm_name {shown(given)} is not the name of a segment")
    if not _is_input(name, wire):
        _refuse(
            "bad_name",
            f"shm_name {shown(given)} is not that of an input: inputs begin with "
            f"{' or '.join(wire.input_prefixes)}, and a worker's result is not an input",
        )
    return name


def _without_slash(name: Any) -> Any:
    """A segment's name as a file has it. POSIX, and Python's `_name`, put a slash before it."""
    return name.removeprefix("/") if isinstance(name, str) else name


def _is_input(name: str, wire: WireFormat) -> bool:
    return name.startswith(wire.input_prefixes) and not is_result_name(name, wire.result_prefix)


def by_width(shape: Sequence[int]) -> str:
    """A size as people read it, width × height, of an array's shape."""
    return f"{shape[1]}×{shape[0]}"


def _require_shape_of_mask(mask: Segment) -> None:
    if mask.shape[2:] not in ((), (1,), (3,)):
        _refuse(
            "bad_shape",
            f"a mask has shape [H, W], [H, W, 1] or [H, W, 3], not {shown(list(mask.shape))}",
        )


def _original_mask(
    message: Mapping[str, Any], size: tuple[int, int], wire: WireFormat
) -> Segment | BadMessage | None:
    if message.get("original_mask_shm_info") is None:
        return None
    try:
        segment = _segment(message, "original_mask_shm_info", wire)
        _require_shape_of_mask(segment)
        if segment.shape[:2] != size:
            _refuse(
                "size_mismatch",
                f"original_mask_shm_info is {by_width(segment.shape)}, the original "
                f"{by_width(size)}",
            )
    except BadMessage as error:
        return error
    return segment


def _original(
    message: Mapping[str, Any], size: tuple[int, int], wire: WireFormat
) -> Segment | BadMessage | None:
    if message.get("original_shm_info") is None:
        return None
    try:
        segment = _segment(message, "original_shm_info", wire)
        if segment.shape != (*size, 3) or segment.dtype != np.uint8:
            _refuse(
                "bad_shape",
                f"original_shm_info: {shown(list(segment.shape))} of {segment.dtype} is not "
                f"{[*size, 3]} of uint8, which original_size requires",
            )
    except BadMessage as error:
        return error
    return segment


def _refuse(reason: str, message: str) -> NoReturn:
    raise BadMessage(reason, message)
