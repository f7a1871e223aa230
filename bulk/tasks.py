"""Finds the tasks of a run, one per picture, before anything is decoded."""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from bulk import parquet
from bulk.errors import BulkRefused
from bulk.parquet import Row
from bulk.storage import Store
from core.pictures.errors import PictureError
from core.pictures.formats import NAMES, PICTURE_SUFFIXES, REFUSED, SUFFIXES, suffix_of
from core.pictures.masks import NAMES as MASK_FORMATS
from core.pictures.masks import SUFFIXES as MASK_SUFFIXES


@dataclass(frozen=True, slots=True)
class Task:
    """A picture to process.

    `name` is its name, `target` the name of its result, without a suffix if that depends on the
    picture's format. `row` is its location in a Parquet file; None if it is a file. `mask` is the
    name of its mask's file, `boxes` are its text quadrilaterals. A row may have its own instead; if
    it has none, `without` says why the command has none for it. `is_again` is True if an earlier
    run found no hole in it.
    """

    name: str
    target: str
    row: Row | None = None
    mask: str = ""
    boxes: Any = None
    without: str = ""
    is_again: bool = False


@dataclass(slots=True)
class Plan:
    """The tasks, how many are done already, and the names and errors of unusable pictures."""

    tasks: list[Task] = field(default_factory=list)
    there: int = 0
    refused: list[tuple[str, PictureError]] = field(default_factory=list)


class MaskNames:
    """Finds a picture's mask by name."""

    def __init__(
        self, names: Iterable[str], is_folder: Callable[[str], bool] = lambda name: False
    ) -> None:
        self._is_folder = is_folder
        self._names: set[str] = set()
        self._others: dict[str, str] = {}
        self._composed: dict[str, list[str]] = defaultdict(list)
        self._stems: dict[str, list[str]] = defaultdict(list)
        for name in names:
            if name.lower().endswith(MASK_SUFFIXES):
                self._names.add(name)
                self._composed[composed(name)].append(name)
                self._stems[composed(_stem(name))].append(name)
            else:
                self._others[composed(_stem(name))] = name

    def of(self, name: str) -> str:
        """The mask of the same name, with any suffix; raises PictureError."""
        if name in self._names:
            return name
        name = composed(name)
        # a.jpg: a.jpg first, then a.jpg.png, then a.png
        candidates = (
            self._composed.get(name) or self._stems.get(name) or self._stems.get(_stem(name))
        )
        if not candidates:
            raise PictureError("no_mask", self._why_none(name))
        if len(candidates) > 1:
            raise PictureError("no_mask", f"it has several masks: {', '.join(candidates)}")
        return candidates[0]

    def _why_none(self, name: str) -> str:
        """Why a picture of a composed name has no mask."""
        other = self._others.get(name) or self._others.get(_stem(name))
        if other:
            return f"its mask {other} is not a {MASK_FORMATS} file: save it as PNG"
        for suffix in ("", *MASK_SUFFIXES):
            if self._is_folder(folder := f"{_stem(name)}{suffix}" if suffix else name):
                return f"its mask {folder} is a folder, must be a file"
        return "there is no mask with its name"


def read_boxes(content: bytes, where: str) -> dict[str, Any]:
    """Boxes by composed picture name; those of repeated names are combined. Raises BulkRefused."""
    boxes: dict[str, Any] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, quads = entry["image"], entry["boxes"]
        except (ValueError, TypeError, KeyError, RecursionError):
            entry = name = quads = None
        if not isinstance(name, str) or not isinstance(quads, list):
            raise BulkRefused(
                f'{where}, line {number} must be {{"image": NAME, "boxes": [[[x, y], …], …]}}'
            )
        name = composed(PurePosixPath(name).as_posix())
        boxes[name] = boxes.get(name, []) + quads
    return boxes


def find(
    store: Store,
    names: Iterable[str],
    there: set[str],
    without_hole: set[str],
    form: str,
    masks: MaskNames | str | None,
    boxes: dict[str, Any] | None,
) -> Plan:
    """The tasks of the files `names`, without those whose results are `there`.

    Those `without_hole` are done again: their masks may have been corrected since. `form` is the
    format of the results, '' for each picture's own. `masks` is the name of one mask for all
    pictures, or finds the mask of each.
    """
    plan = Plan()
    taken: dict[str, str] = {}
    for name, row in _pictures(store, names, plan):
        if isinstance(row, PictureError):
            plan.refused.append((name, row))
            continue
        try:
            target = _target(name, form)
            if target in taken:
                raise PictureError("same_result", f"its result would be that of {taken[target]}")
            taken[target] = name
            is_again = _is_there(target, without_hole)
            if _is_there(target, there) and not is_again:
                plan.there += 1
                continue
            if row is None and masks is None and boxes is None:
                raise PictureError("no_mask", "a picture file needs --masks or --boxes")
            try:
                mask, quads = _hole_of(name, masks, boxes)
                plan.tasks.append(Task(name, target, row, mask, quads, is_again=is_again))
            except PictureError as error:
                if row is None:
                    raise
                without = f"its row has neither a mask nor boxes, and {error}"
                plan.tasks.append(Task(name, target, row, without=without, is_again=is_again))
        except PictureError as error:
            plan.refused.append((name, error))
    return plan


def _hole_of(
    name: str, masks: MaskNames | str | None, boxes: dict[str, Any] | None
) -> tuple[str, Any]:
    """The name of a picture's mask, and its boxes; raises PictureError if one is missing."""
    mask = masks.of(name) if isinstance(masks, MaskNames) else masks or ""
    if boxes is None:
        return mask, None
    quads = boxes.get(composed(name))
    if quads is None:
        raise PictureError("no_mask", "there are no boxes for it")
    return mask, quads


def _pictures(
    store: Store, names: Iterable[str], plan: Plan
) -> Iterator[tuple[str, Row | PictureError | None]]:
    for name in names:
        if parquet.is_parquet(name):
            try:
                yield from parquet.rows(store, name)
            except PictureError as error:
                plan.refused.append((name, error))
        elif name.lower().endswith(PICTURE_SUFFIXES):
            yield name, None
        else:
            plan.refused.append((name, PictureError("not_a_picture", _why_not(name))))


def _why_not(name: str) -> str:
    """Why a file cannot be a picture, by its suffix."""
    text = f"it is not a {NAMES} file, nor a Parquet file"
    return REFUSED.get(PurePosixPath(name).suffix.lower(), text)


def _target(name: str, form: str) -> str:
    path = PurePosixPath(name)
    is_hidden = any(part.startswith(".") for part in path.parts)  # ".." too
    if path.is_absolute() or not path.name or is_hidden or "\0" in name:
        raise PictureError(
            "bad_name",
            f"its name {ascii(name)[:80]} names no file, or one outside OUTPUT or hidden there: "
            "give it another",
        )
    suffix = path.suffix.lower()
    if not form or suffix in SUFFIXES[form]:
        return path.as_posix()
    if suffix in PICTURE_SUFFIXES:
        return path.with_suffix(suffix_of(form)).as_posix()
    return path.as_posix()  # a row of a Parquet file; its suffix is added later


def _is_there(target: str, there: set[str]) -> bool:
    if target.lower().endswith(PICTURE_SUFFIXES):
        return target in there
    return any(f"{target}{suffix_of(form)}" in there for form in SUFFIXES)


def composed(name: str) -> str:
    """A name by which names are compared: a Mac writes accents and Korean letters decomposed."""
    return unicodedata.normalize("NFC", name)


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
