"""What there is to do: a task per picture, found before anything is decoded."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from bulk import parquet
from bulk.codec import PICTURE_SUFFIXES, SUFFIXES, suffix_of
from bulk.errors import BulkRefused, PictureError
from bulk.masks import SUFFIXES as MASK_SUFFIXES
from bulk.parquet import Row
from bulk.storage import Store


@dataclass(frozen=True, slots=True)
class Task:
    """A picture to be done.

    `name` is what it is called, `target` the name of its result; without a suffix where that
    follows from the picture's format. `row` is where it is in a Parquet file, else it is a file.
    `mask` is the name of its mask's file, `boxes` are its text quadrilaterals; where there is
    neither, the row has one of them.
    """

    name: str
    target: str
    row: Row | None = None
    mask: str = ""
    boxes: Any = None


@dataclass(slots=True)
class Plan:
    """The tasks, how many are done already, and what cannot be done at all: name to why."""

    tasks: list[Task] = field(default_factory=list)
    there: int = 0
    refused: list[tuple[str, PictureError]] = field(default_factory=list)


class MaskNames:
    """Finds the mask of a picture among the names of masks."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set()
        self._stems: dict[str, list[str]] = defaultdict(list)
        for name in names:
            if name.lower().endswith(MASK_SUFFIXES):
                self._names.add(name)
                self._stems[_stem(name)].append(name)

    def of(self, name: str) -> str:
        """The mask of the same name, whatever its suffix; raises PictureError."""
        if name in self._names:
            return name
        # a.jpg: a.jpg.png first, then a.png
        found = self._stems.get(name) or self._stems.get(_stem(name))
        if not found:
            raise PictureError("no_mask", "there is no mask of its name")
        if len(found) > 1:
            raise PictureError("no_mask", f"it has several masks: {', '.join(found)}")
        return found[0]


def read_boxes(content: bytes, where: str) -> dict[str, Any]:
    """Boxes by the names of pictures; of a name that comes twice all. Raises BulkRefused."""
    boxes: dict[str, Any] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, found = entry["image"], entry["boxes"]
        except (ValueError, TypeError, KeyError, RecursionError):
            entry = name = found = None
        if not isinstance(name, str) or not isinstance(found, list):
            raise BulkRefused(
                f'{where}, line {number}: {{"image": NAME, "boxes": [[[x, y], …], …]}} is needed'
            )
        name = PurePosixPath(name).as_posix()
        boxes[name] = boxes.get(name, []) + found
    return boxes


def find(
    store: Store,
    names: Iterable[str],
    there: set[str],
    form: str,
    masks: MaskNames | str | None,
    boxes: dict[str, Any] | None,
) -> Plan:
    """The tasks of the files `names`, but for results that are `there`.

    `form` is the format of the results, '' for each picture's own. `masks` is one mask's name for
    all of them, or finds each one's.
    """
    plan = Plan()
    taken: dict[str, str] = {}
    for name, row in _pictures(store, names, plan):
        try:
            target = _target(name, form)
            if target in taken:
                raise PictureError("same_result", f"its result would be that of {taken[target]}")
            taken[target] = name
            if _is_there(target, there):
                plan.there += 1
                continue
            if row is None and masks is None and boxes is None:
                raise PictureError("no_mask", "a file of its own needs --masks or --boxes")
            mask = masks.of(name) if isinstance(masks, MaskNames) else masks or ""
            own = None
            if boxes is not None:
                own = boxes.get(name)
                if own is None:
                    raise PictureError("no_mask", "there are no boxes for it")
            plan.tasks.append(Task(name, target, row, mask, own))
        except PictureError as error:
            plan.refused.append((name, error))
    return plan


def _pictures(store: Store, names: Iterable[str], plan: Plan) -> Iterator[tuple[str, Row | None]]:
    for name in names:
        if parquet.is_parquet(name):
            try:
                yield from parquet.rows(store, name)
            except PictureError as error:
                plan.refused.append((name, error))
        elif name.lower().endswith(PICTURE_SUFFIXES):
            yield name, None
        else:
            plan.refused.append(
                (name, PictureError("not_a_picture", "it is no JPEG, PNG, WebP or Parquet file"))
            )


def _target(name: str, form: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.name.startswith(".") or "\0" in name:
        raise PictureError("bad_name", "its name would lead out of OUTPUT, or be hidden there")
    suffix = path.suffix.lower()
    if not form or suffix in SUFFIXES[form]:
        return path.as_posix()
    if suffix in PICTURE_SUFFIXES:
        return path.with_suffix(suffix_of(form)).as_posix()
    return path.as_posix()  # a row's, whose suffix follows


def _is_there(target: str, there: set[str]) -> bool:
    if target.lower().endswith(PICTURE_SUFFIXES):
        return target in there
    return any(f"{target}{suffix_of(form)}" in there for form in SUFFIXES)


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
