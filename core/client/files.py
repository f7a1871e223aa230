"""`submit`: a picture on disk is filled by a running worker and keeps what its file holds."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.client.client import Client, SubmitError, suitable_kind
from core.client.windows import Filler, most_whole
from core.config import Settings
from core.keys import Kind
from core.pictures.codec import MOST_PIXELS, Picture, decode, encode, require_form
from core.pictures.errors import PictureError, Remark, named
from core.pictures.formats import NAMES, REFUSED, form_of
from core.pictures.masks import NO_HOLE, as_stored, decode_mask, remarks_on
from core.pixels.arrays import Hole
from core.pixels.arrays import Picture as Array


@dataclass(frozen=True, slots=True)
class Submitted:
    """A result that is written: its queue, the seconds it took, and what a user should know.

    A picture has one request, or several if it is large or has transparent parts.
    """

    kind: Kind
    request_ids: tuple[str, ...]
    seconds: float
    remarks: tuple[Remark, ...]


def submit_file(
    settings: Settings,
    image_path: Path,
    mask_path: Path,
    output: Path,
    kind: Kind | None,
    timeout_s: float,
) -> Submitted:
    """Have a running worker inpaint a picture on disk.

    Without a kind, it goes to the queue whose canvas suits it. It is sent at full size: whole, or
    a large one by windows around its holes. Raises SubmitError, which names the file and what is
    wrong.
    """
    form = _writable_form(output)  # first, before a worker computes anything
    for path in (image_path, mask_path):
        if _is_same(output, path):
            raise SubmitError(
                f"{output} cannot be written: it would replace {path}; name another file with -o"
            )
    picture, hole, remarks = _read(image_path, mask_path, form, settings.mask_threshold)
    if any(remark.reason == NO_HOLE for remark in remarks):
        raise SubmitError(
            f"{mask_path} has no hole, so nothing would be erased: no pixel is above "
            f"MASK_THRESHOLD={settings.mask_threshold}"
        )
    kind = kind or suitable_kind(*picture.size)
    mask = hole.view(np.uint8) * np.uint8(255)
    with Client(settings) as client:
        limit = most_whole(settings.max_image_pixels)
        fill = Filler(client, image_path.name, timeout_s, kind, limit)
        filled = [_swapped(fill(_swapped(layer), mask)) for layer in picture.layers(hole)]
    try:
        with named("unencodable"):
            output.write_bytes(encode(picture, filled, hole, form))
    except PictureError as error:
        raise SubmitError(f"{output} cannot be written: {error}") from error
    return Submitted(kind, tuple(fill.request_ids), fill.seconds, remarks)


def _read(
    image_path: Path, mask_path: Path, form: str, mask_threshold: int
) -> tuple[Picture, Hole, tuple[Remark, ...]]:
    """The picture and its hole, as stored, and what a user should know of them."""
    content, mask = _content(image_path), _content(mask_path)
    try:
        with named("undecodable"):
            picture = decode(content, MOST_PIXELS)
            require_form(picture, form)
    except PictureError as error:
        why = REFUSED.get(image_path.suffix.lower()) if error.reason == "undecodable" else None
        raise SubmitError(f"{image_path}: {why or error}") from error
    try:
        with named("mask_undecodable"):
            hole, remarks = decode_mask(mask, MOST_PIXELS, mask_threshold)
            hole = as_stored(hole, picture.orientation, picture.size)
            return (
                picture,
                hole,
                (*picture.remarks, *picture.lost_in(form), *remarks, *remarks_on(hole)),
            )
    except PictureError as error:
        raise SubmitError(f"{image_path}, {mask_path}: {error}") from error


def _swapped(array: Array) -> Array:
    """RGB as BGR, and the other way round."""
    return np.asarray(cv2.cvtColor(array, cv2.COLOR_RGB2BGR), np.uint8)


def _writable_form(output: Path) -> str:
    """The format of a result by its suffix."""
    form = form_of(output.name)
    if form is None:
        raise SubmitError(
            f"{output}: the suffix must be that of a {NAMES} file, such as .png, .jpg or .webp"
        )
    if not os.access(output.parent, os.W_OK):
        raise SubmitError(
            f"{output} cannot be written: {output.parent} is not a folder or not writable"
        )
    try:
        is_folder = stat.S_ISDIR(output.stat().st_mode)
    except FileNotFoundError:
        return form
    except OSError as error:  # its name is too long, or links form a loop
        raise SubmitError(f"{output} cannot be written: {error.strerror}") from error
    if is_folder:
        raise SubmitError(f"{output} cannot be written: it is a folder")
    return form


def _is_same(output: Path, path: Path) -> bool:
    """Whether two names lead to the same file."""
    try:
        return output.samefile(path)
    except OSError:
        return False


def _content(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            raise SubmitError(f"{path} is not a file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SubmitError(f"{path} is not a file") from error
    except OSError as error:
        raise SubmitError(f"{path} cannot be read: {error.strerror}") from error
