"""A device that may break, as a folder: files there tell each worker's network how to behave.

It also notes which process began to compute which job, so that chaos' account can tell whether a
job was being computed when processes died.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final

from core.errors import DeviceFault

#: Environment variable: the folder.
VARIABLE: Final = "HARNESS_DEVICE"

#: What a device that is broken says; the log of a worker may contain it.
BROKEN_TEXT: Final = "the device of this run is broken"

#: The longest that an inference is held up, in seconds.
HELD_UP_S: Final = 4.0


class State(StrEnum):
    """What is wrong with the device, for all processes."""

    BROKEN = "broken"  # each inference raises DeviceFault
    DEADLY = "deadly"  # each inference kills its process, as a driver does that crashes


class Device:
    """Chaos changes it, and each network uses it when it computes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        self._computed = folder / "computed"

    def put(self, state: State, *, to: bool) -> None:
        """Put the device into a state, or end that state."""
        self._switch(self._folder / state, to=to)

    def has(self, state: State) -> bool:
        """Whether it is broken in this way."""
        return (self._folder / state).exists()

    def hold_up(self, pid: int, *, to: bool) -> None:
        """Hold up the inferences of one process, or let them go on."""
        self._switch(self._folder / f"slow-{pid}", to=to)

    def use(self, image_ids: Iterable[str]) -> None:
        """Begin an inference in this process; raises DeviceFault, kills, or takes its time."""
        pid = os.getpid()
        with self._computed.open("a") as file:
            file.write(f"{pid} {' '.join(image_ids)}\n")
        if self.has(State.DEADLY):
            os.kill(pid, signal.SIGKILL)
        if self.has(State.BROKEN):
            raise DeviceFault(BROKEN_TEXT)
        until = time.monotonic() + HELD_UP_S
        while (self._folder / f"slow-{pid}").exists() and time.monotonic() < until:
            time.sleep(0.02)

    def crashes(self, harmed: set[int]) -> Counter[int]:
        """Of each job: in how many of the `harmed` processes its inference was begun."""
        by_job: defaultdict[int, set[int]] = defaultdict(set)
        lines = self._computed.read_text().splitlines() if self._computed.exists() else []
        for line in lines:
            pid, *image_ids = line.split()
            for image_id in image_ids:
                if (found := re.fullmatch(r"(\d+)\.jpg", image_id)) and int(pid) in harmed:
                    by_job[int(found[1])].add(int(pid))
        return Counter({number: len(pids) for number, pids in by_job.items()})

    @staticmethod
    def _switch(file: Path, *, to: bool) -> None:
        if to:
            file.touch()
        else:
            with contextlib.suppress(FileNotFoundError):
                file.unlink()
