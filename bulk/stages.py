"""The three stages of a picture: decode, fill, encode. They are the same here and on Ray.

They keep nothing of a picture, and the last one writes the same bytes if it is repeated, so
that a stage can be done again elsewhere.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bulk.parquet import Reader
from bulk.storage import Store
from bulk.tasks import Task
from core.network import check_device
from core.pictures.boxes import mask_of_boxes
from core.pictures.codec import Picture, decode, encode
from core.pictures.errors import PictureError, Remark, named
from core.pictures.formats import PICTURE_SUFFIXES, suffix_of
from core.pictures.masks import as_stored, decode_mask, remarks_on
from core.pixels.arrays import Hole
from core.pixels.arrays import Picture as Array
from lama.halving import explained, halved
from lama.regions import MOST_AT_ONCE, Region

if TYPE_CHECKING:
    from core.network import Inpainter

#: A folder in OUTPUT, with an empty file for each result that has no hole.
WITHOUT_HOLE: Final = ".bulk-without-hole"

#: Pixels: sizes up to the same multiple go into one call.
UNIT: Final = 8


@dataclass(frozen=True, slots=True)
class Work:
    """What all pictures have in common; `form` is the results' format, '' for each one's own."""

    source: Store
    masks: Store | None
    output: Store
    form: str
    most_pixels: int
    threshold: int
    region: Region


@dataclass(frozen=True, slots=True)
class Item:
    """A picture on its way. `hole` is bool H×W, as stored; `layers` are what the network fills,
    uint8 H×W×3; `content` is its file where nothing is to be done. `about` are remarks."""

    task: Task
    picture: Picture
    hole: Hole
    layers: Sequence[Array] = ()
    content: bytes = b""
    about: tuple[Remark, ...] = ()

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What a user should know of it although it is done."""
        return (*self.picture.remarks, *self.about, *remarks_on(self.hole))


#: The filled layers of a picture.
Filled = list[Array]


class Decoder:
    """The first stage."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._rows = Reader(work.source)

    @named("undecodable")
    def __call__(self, task: Task, admit: Callable[[int], None] = lambda pixels: None) -> Item:
        """Read and decode a picture and its mask; raises PictureError, and nothing else."""
        work = self._work
        row = self._rows(task.row) if task.row else {}
        content = row.get("image") if task.row else _read(work.source, task.name, "unreadable")
        if not isinstance(content, bytes):
            raise PictureError("undecodable", "its row has no bytes in column image")
        picture = decode(content, work.most_pixels, admit)
        hole, remarks = self._hole(task, row, picture.shown_size)
        hole = as_stored(hole, picture.orientation, picture.size)
        unchanged = not hole.any() and work.form in ("", picture.format)
        layers = picture.layers(hole)
        remarks = (*picture.lost_in(work.form), *remarks)
        return Item(task, picture, hole, layers, content if unchanged else b"", remarks)

    def _hole(
        self, task: Task, row: dict[str, Any], shown: tuple[int, int]
    ) -> tuple[Hole, tuple[Remark, ...]]:
        """Of the row's own boxes or mask, else of those that the command names."""
        work = self._work
        if row.get("boxes") is not None:
            return mask_of_boxes(row["boxes"], shown)
        if isinstance(row.get("mask"), bytes):
            return decode_mask(row["mask"], work.most_pixels, work.threshold)
        if task.boxes is not None:
            return mask_of_boxes(task.boxes, shown)
        if not task.mask:
            raise PictureError("no_mask", task.without or "its row has neither a mask nor boxes")
        assert work.masks is not None
        mask = _read(work.masks, task.mask, "mask_unreadable")
        return decode_mask(mask, work.most_pixels, work.threshold, task.mask)


class Filler:
    """The second stage: the network."""

    def __init__(self, inpainter: Inpainter) -> None:
        self._inpainter = inpainter

    def describe(self) -> str:
        """Device and precision, for people."""
        return self._inpainter.describe()

    def __call__(self, items: Sequence[Item]) -> list[Filled | PictureError]:
        """Of each picture its layers with the hole filled, or why there are none.

        Raises DeviceFault if only a new process can help.
        """
        results: list[Filled | PictureError | None] = [None] * len(items)
        for group in self._groups(items):
            alike = [items[index] for index in group]
            filled = halved(self._filled, alike, _failure, self._check_device)
            for index, result in zip(group, filled, strict=True):
                results[index] = result
        return [result for result in results if result is not None]

    def _check_device(self) -> None:
        check_device(self._inpainter)

    def _groups(self, items: Sequence[Item]) -> list[list[int]]:
        """Which pictures go through the network together. Windows are batched by themselves."""
        if self._inpainter.region != "full":
            return [list(range(len(items)))]
        sizes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            height, width = item.hole.shape
            sizes[-(-height // UNIT), -(-width // UNIT)].append(index)
        groups = []
        for (rows, columns), alike in sizes.items():
            count = max(1, MOST_AT_ONCE // (rows * columns * UNIT * UNIT))
            groups += [alike[first : first + count] for first in range(0, len(alike), count)]
        return groups

    def _filled(self, items: Sequence[Item]) -> list[Filled]:
        images = [layer for item in items for layer in item.layers]
        masks = [
            mask
            for item in items
            for mask in [item.hole.view(np.uint8) * np.uint8(255)] * len(item.layers)
        ]
        filled = iter(self._inpainter.fill(images, masks) if images else [])
        return [list(islice(filled, len(item.layers))) for item in items]


class Encoder:
    """The last stage."""

    def __init__(self, work: Work) -> None:
        self._work = work

    @named("unencodable")
    def encoded(self, item: Item, filled: Filled) -> tuple[str, bytes]:
        """A result's name and content; raises PictureError."""
        form = self._work.form or item.picture.format
        name = item.task.target
        if not name.lower().endswith(PICTURE_SUFFIXES):
            name += suffix_of(form)
        return name, item.content or encode(item.picture, filled, item.hole, form)

    @named("unencodable")
    def __call__(self, item: Item, filled: Filled) -> None:
        """Encode and write a result; raises PictureError, and nothing else."""
        name, content = self.encoded(item, filled)
        output = self._work.output
        marks = output.below(WITHOUT_HOLE)
        has_hole = bool(item.hole.any())
        try:
            if not has_hole:
                marks.write(name, b"")  # first, because the run may be killed in between
            output.write(name, content)
            if has_hole and item.task.is_again:
                marks.remove(name)
        except OSError as error:
            reason = "no_room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "unwritable"
            raise PictureError(reason, f"its result cannot be written: {error}") from error


def _read(store: Store, name: str, reason: str) -> bytes:
    try:
        return store.read(name)
    except OSError as error:
        raise PictureError(reason, f"{name} cannot be read: {error}") from error


def _failure(item: Item, error: Exception) -> PictureError:
    return PictureError(*explained(item.picture.channels, error))
