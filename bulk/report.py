"""Reports the progress and the failures of a run: on the terminal, and in failures.jsonl."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Final

from bulk.errors import BulkRefused
from bulk.storage import Folder, Store
from core.commands.common import table
from core.pictures.errors import PictureError, Remark
from core.pictures.masks import NO_HOLE
from core.telemetry.logs import number_of, printable
from lama.clock import clock

FAILURES: Final = "failures.jsonl"

#: Seconds between two lines of progress, on a terminal and in a file.
_SHOWN_EVERY, _LOGGED_EVERY = 0.2, 10.0


@dataclass(slots=True)
class Counts:
    """Numbers of pictures: to do, done by earlier runs (`there`), done, without a hole, failed.

    `reasons` and `remarks` count the failed and the remarkable ones by their codes.
    """

    todo: int
    there: int
    done: int = 0
    without_hole: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)

    @property
    def past(self) -> int:
        """The pictures of this run that are not to do any more."""
        return self.done + self.without_hole + self.failed

    @property
    def nothing_erased(self) -> bool:
        """Whether none of several holes that were asked for was found, in this run or earlier."""
        return bool(self.without_hole) and not self.done and not self.there


class Failures:
    """OUTPUT/failures.jsonl: a line for each picture that failed in this run."""

    def __init__(self, output: Store) -> None:
        """Create an empty file; raises BulkRefused if OUTPUT cannot be written to."""
        self._output = output
        self._lines: list[str] = []
        self._file: IO[str] | None = None
        try:
            if isinstance(output, Folder):
                self._file = (output.root / FAILURES).open("w", encoding="ascii")
            else:
                output.write(FAILURES, b"")
        except OSError as error:
            raise BulkRefused(f"OUTPUT cannot be written to: {error}") from error

    def add(self, name: str, error: PictureError) -> None:
        """Add a failed picture; raises OSError."""
        line = json.dumps({"image": name, "reason": error.reason, "error": str(error)}) + "\n"
        if self._file is None:
            self._lines.append(line)
        else:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Write remaining lines; raises OSError."""
        if self._file is not None:
            self._file.close()
        elif self._lines:
            self._output.write(FAILURES, "".join(self._lines).encode("ascii"))


class Progress:
    """Counts pictures and reports progress on standard error."""

    def __init__(self, counts: Counts, failures: Failures) -> None:
        self.counts = counts
        self._failures = failures
        self._began = time.monotonic()
        self._reported_at = self._began
        self._live = sys.stderr.isatty()
        self._examples: dict[str, str] = {}

    def __call__(
        self, name: str, error: PictureError | None, remarks: Sequence[Remark] = ()
    ) -> None:
        """A picture is done, or has failed with an error."""
        counts = self.counts
        if error is None:
            for remark in remarks:
                counts.remarks[remark.reason] = counts.remarks.get(remark.reason, 0) + 1
                self._examples.setdefault(remark.reason, f"{name}: {remark.text}")
            if any(remark.reason == NO_HOLE for remark in remarks):
                counts.without_hole += 1
            else:
                counts.done += 1
        else:
            counts.failed += 1
            counts.reasons[error.reason] = counts.reasons.get(error.reason, 0) + 1
            self._examples.setdefault(error.reason, f"{name}: {error}")
            try:
                self._failures.add(name, error)
            except OSError as problem:  # a full disk: reported here instead
                self._print(f"{name}: {error} ({FAILURES} cannot be written: {problem})")
        now = time.monotonic()
        if now - self._reported_at >= (_SHOWN_EVERY if self._live else _LOGGED_EVERY):
            self._reported_at = now
            text = self.line()
            print(f"\r{text}\x1b[K" if self._live else text, end="", file=sys.stderr)
            print(end="" if self._live else "\n", file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        return max(1e-9, time.monotonic() - self._began)

    @property
    def rate(self) -> float:
        """Pictures a second, failed ones included."""
        return self.counts.past / self.seconds

    def line(self) -> str:
        """The progress so far."""
        counts = self.counts
        past = counts.past
        remaining_s = (counts.todo - past) / self.rate if past else float("nan")
        time_left = f"{clock(remaining_s)} left" if past else "…"
        return (
            f"{past} of {number_of(counts.todo, 'picture')}, {self.rate:.2f} a second, "
            f"{time_left}, {counts.failed} failed"
        )

    def finish(self, stopped: str = "") -> None:
        """Report the outcome, and complete failures.jsonl.

        `stopped` says why the run ended before all pictures were done, '' if they are.
        """
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr)
        counts = self.counts
        if self._examples:
            print(self._table(), file=sys.stderr, flush=True)
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.reasons.items()))
        copied = f"{counts.without_hole} without a hole, " if counts.without_hole else ""
        if stopped:
            left = counts.todo - counts.past
            self._print(f"{stopped}, {left} left: start the same command again to continue")
        self._print(
            f"{counts.done} done, {copied}{counts.there} there already, {counts.failed} failed"
            f"{f' ({why}; see {FAILURES})' if why else ''}, "
            f"{self.seconds:.1f} s, {self.rate:.2f} pictures a second"
        )
        if counts.nothing_erased and not stopped:
            self._print(
                "nothing was erased: no picture had a hole. Are the masks black, or not above "
                "MASK_THRESHOLD?"
            )
        try:
            self._failures.close()
        except OSError as problem:
            self._print(f"{FAILURES} cannot be written: {problem}")

    def _table(self) -> str:
        """A line for each kind of failure and remark, with an example."""
        kinds = (("failed", self.counts.reasons), ("note", self.counts.remarks))
        rows = [
            (what, count, reason, self._examples[reason])
            for what, counted in kinds
            for reason, count in sorted(counted.items())
        ]
        return table(("", "pictures", "reason", "for example"), rows)

    def _print(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)
