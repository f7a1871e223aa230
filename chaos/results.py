"""What the runs over a catalogue leave in their output, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bulk.report import FAILURES
from bulk.stages import WITHOUT_HOLE
from bulk.storage import PART
from chaos.pages import Page, Picture
from lama.regions import inpaint

#: uint8 H×W×3 pictures and their masks to the filled pictures.
Fill = Callable[[Sequence[Picture], Sequence[Picture]], list[Picture]]

#: Of a file its inode and when it was changed: others if it is made again.
File = tuple[int, int]


@dataclass(slots=True)
class Account:
    """What was found. `seconds` are those of the two runs, with their starts."""

    pictures: int
    there_when_killed: int = 0
    killed: int = 0
    parts_left_by_the_kill: int = 0
    done_by_the_second_run: int = 0
    copied_again: int = 0
    done_twice: int = 0
    half_written: int = 0
    missing: int = 0
    differing: int = 0
    pixels_in_holes: int = 0
    pixels_differing: int = 0
    largest_difference: int = 0
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Results:
    """The output of runs over so many pages, with the account of them."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self._count = count
        self.account = Account(count)

    def files(self) -> dict[str, File]:
        """All results by their names, without bulk's own notes and unfinished files."""
        marks = self.folder / WITHOUT_HOLE
        return {
            path.relative_to(self.folder).as_posix(): (about.st_ino, about.st_mtime_ns)
            for path in self.folder.rglob("*")
            if path.is_file() and path.name != FAILURES and not path.name.startswith(PART)
            if not path.is_relative_to(marks)
            for about in [path.stat()]
        }

    def copied(self) -> set[str]:
        """The names of results that have no hole, which each run copies again."""
        marks = self.folder / WITHOUT_HOLE
        return {path.relative_to(marks).as_posix() for path in marks.rglob("*") if path.is_file()}

    def parts(self) -> list[str]:
        """Names of unfinished files."""
        return [path.name for path in self.folder.rglob(f"{PART}*")]

    def check_killed(self) -> None:
        """After the kill there must be some results, and each of them whole."""
        there = self.files()
        self.account.there_when_killed = len(there)
        self.account.parts_left_by_the_kill = len(self.parts())
        if not 0 < len(there) < self._count:
            self._wrong(f"{len(there)} of {self._count} were there: it was not killed half-way")
        for name in there:
            if _read(self.folder / name) is None:
                self.account.half_written += 1
                self._wrong(f"{name} was half-written when it was killed")

    def check_second(self, before: dict[str, File], counts: dict[str, Any]) -> None:
        """Of the results, those that were there `before` the second run must be the same files.

        `before` has those with a hole; `counts` is what the run says itself.
        """
        done = counts["done"] + counts["without_hole"]
        self.account.done_by_the_second_run = done
        missing = self._count - len(before)
        if (done, counts["there"], counts["failed"]) != (missing, len(before), 0):
            self._wrong(f"the second run says {counts}: {missing} were to do")
        after = self.files()
        for name in before:
            if after.get(name) != before[name]:
                self.account.done_twice += 1
                self._wrong(f"{name} was done twice")
        self.account.wrong += [
            f"{name} is left of the run that was killed" for name in self.parts()
        ]

    def compare(self, pages: Iterable[Page], fill: Fill, share: float) -> None:
        """Each result with what `fill` makes of the same windows.

        At most this `share` of the pixels in all holes may differ, by one level each.
        """
        account = self.account
        others = set(self.files())
        for page in pages:
            if page.name not in others:
                account.missing += 1
                self._wrong(f"{page.name} has no result")
                continue
            others.remove(page.name)
            result = _read(self.folder / page.name)
            if result is None:
                account.half_written += 1
                self._wrong(f"{page.name} is half-written")
                continue
            (wanted,) = inpaint(fill, [page.image], [page.mask], "mask")
            self._note(page, result, wanted)
        account.wrong += [f"{name} is no page's result" for name in sorted(others)]
        if account.pixels_differing > share * account.pixels_in_holes:
            self._wrong(
                f"{account.pixels_differing} of {account.pixels_in_holes} pixels differ, more than "
                f"{share:g} of them"
            )

    def _note(self, page: Page, result: Picture, wanted: Picture) -> None:
        if result.shape != wanted.shape:
            self._wrong(f"{page.name}: its result has shape {result.shape}, not {wanted.shape}")
            return
        self.account.pixels_in_holes += int(np.count_nonzero(page.hole))
        difference = np.abs(result.astype(np.int16) - wanted).max(axis=2)
        if not difference.any():
            return
        largest = int(difference.max())
        self.account.differing += 1
        self.account.pixels_differing += int(np.count_nonzero(difference))
        self.account.largest_difference = max(self.account.largest_difference, largest)
        if difference[~page.hole].any():
            self._wrong(f"{page.name} differs outside of its holes")
        elif largest > 1:
            self._wrong(f"{page.name} differs by up to {largest} levels")

    def _wrong(self, what: str) -> None:
        self.account.wrong.append(what)


def _read(path: Path) -> Picture | None:
    """uint8 H×W×3; None if it does not decode to its last row."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None
