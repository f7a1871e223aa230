"""Runs parts one after another, each in a process with a time limit, and keeps every line."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.gpu.scale import Row
from harness import ROOT

#: Seconds that a part has left to be worth its start: a process imports torch for some of them.
LEAST_S: Final = 10.0

#: Seconds for a part to stop what it has started, after which it is killed.
GRACE_S: Final = 6.0

#: prctl's name for adopting the orphans among one's descendants.
_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the run."""

    name: str
    #: The most seconds that it may take.
    limit_s: float
    needs_cuda: bool = False


class Lines:
    """Each line is printed at once, and appended to a file as JSON."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a")
        self._began = time.monotonic()

    def add(self, part: str, row: Row) -> None:
        at = round(time.monotonic() - self._began, 1)
        self._file.write(json.dumps({"part": part, "at s": at, **row}, ensure_ascii=False) + "\n")
        self._file.flush()
        text = ", ".join(f"{name} {_cell(value)}" for name, value in row.items())
        print(f"{at:6.1f} s  {part:<11} {text}", flush=True)

    def close(self) -> None:
        self._file.close()


def run(
    parts: Sequence[Part],
    command: Callable[[Part], Sequence[str]],
    lines: Lines,
    *,
    has_cuda: bool,
    budget_s: float,
) -> None:
    """Every part gets its time, as far as the budget lasts; no error of a part ends the run.

    `command` is the program of a part. It prints a JSON object for each line.
    """
    ends = time.monotonic() + budget_s
    for part in parts:
        left = ends - time.monotonic()
        if part.needs_cuda and not has_cuda:
            lines.add(part.name, {"skipped": "no CUDA device"})
        elif left < min(LEAST_S, part.limit_s):
            lines.add(part.name, {"skipped": f"no time is left of {budget_s:.0f} s"})
        else:
            _run(part, command(part), lines, min(part.limit_s, left))


def adopt_orphans() -> None:
    """From now on what a killed part leaves behind belongs to this process, which ends it."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _run(part: Part, command: Sequence[str], lines: Lines, limit_s: float) -> None:
    began, others = time.monotonic(), _children()
    with tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, process_group=0
            )
        except OSError as error:
            lines.add(part.name, {"error": _public(str(error))})
            return
        # In a thread: what the part has started may keep the pipe open after its end.
        reader = threading.Thread(target=_read, args=(process, part, lines), daemon=True)
        reader.start()
        try:
            reader.join(limit_s)
            in_time = not reader.is_alive()
        finally:
            _end(process)
            _end_orphans(others)
        reader.join(GRACE_S)
        if not in_time:
            lines.add(part.name, {"stopped": f"not done after {limit_s:.0f} s"})
        elif process.returncode:
            lines.add(part.name, {"error": _last_line(errors) or f"status {process.returncode}"})
    lines.add(part.name, {"took s": round(time.monotonic() - began, 1)})


def _read(process: subprocess.Popen[str], part: Part, lines: Lines) -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            if line.strip():
                lines.add(part.name, _row(line.rstrip()))
    process.wait()


def _row(line: str) -> Row:
    """A line of a part; what libraries print is text."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    return row if isinstance(row, dict) else {"text": _public(line)}


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a part that still runs, and the programs of its process group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_orphans(others: set[int]) -> None:
    """Kills the processes that have become children of this one, and theirs."""
    while orphans := _children() - others:
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan, 0)


def _children() -> set[int]:
    """The processes that this one has started or adopted."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread may end meanwhile; its children go to another one.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found |= set(map(int, (task / "children").read_text().split()))
    return found


def _last_line(errors: IO[str]) -> str:
    """The error, without the lines of its traceback."""
    errors.seek(0)
    found = [line.strip() for line in errors if line.strip()]
    return _public(found[-1])[:500] if found else ""


def _public(text: str) -> str:
    """Without the folders of this machine, since results are published."""
    for folder in (str(ROOT), sys.prefix, str(Path.home())):
        text = text.replace(folder, "…")
    return text


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else str(value)
