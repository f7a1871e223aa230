"""Programs that are killed and restarted, with a tally of how they ended."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.faults import VARIABLE
from harness.device import BROKEN_TEXT
from harness.process import Process, minimal_environment, python

PATIENCE_S = 20.0

#: Exit statuses of a worker that was asked to stop: its grace time was over, and asked twice.
UNCLEAN = (1, 128 + signal.SIGTERM)

#: How long a worker may take to react again after SIGCONT, in seconds.
THAW_S = 3.0


@dataclass
class Tally:
    """Counts of what was done to programs. `kills` are by SIGKILL, `wrong` is what must not happen.

    `harmed` are the ids of processes that were killed or may have counted as dead.
    """

    kills: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    harmed: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


class Program(Process):
    """A program that the run restarts when it ends; each end is recorded in the tally."""

    def __init__(
        self,
        kind: str,
        arguments: Sequence[str],
        tally: Tally,
        log: Path,
        environment: Mapping[str, str] | None = None,
        behind: Sequence[str] = (),
    ) -> None:
        """`arguments` are Python's, `behind` is a command that starts it."""
        super().__init__(
            [*behind, *python(*arguments)], {**minimal_environment(), **(environment or {})}, log
        )
        self.kind = kind
        self.status: int | None = None  # of the process that ended last
        self._tally = tally
        self._sent: set[int] = set()
        self._frozen_until = 0.0
        self._is_armed = False
        self._is_noted = True  # or was never started

    def start(self, **extra: str) -> None:
        """Start the program, with more environment variables: perhaps a point at which it dies."""
        super().start(**extra)
        self._sent = set()
        self._frozen_until = 0.0
        self._is_armed = VARIABLE in extra
        self._is_noted = False

    def send(self, number: int, pid: int | None = None) -> None:
        """Send a signal, if the program runs, and still as this process if one is named."""
        if not self.is_running or pid not in (None, self.pid):
            return
        self._sent.add(number)
        if number == signal.SIGSTOP:
            self._tally.harmed.add(self.pid)
            self._frozen_until = math.inf
        elif number == signal.SIGCONT:
            self._frozen_until = time.monotonic() + THAW_S
        self.send_signal(number)

    def well(self) -> int | None:
        """Its process id if it runs and is neither frozen nor about to end."""
        if not self.is_running:
            return None
        is_ending = self._sent & {signal.SIGTERM, signal.SIGKILL}
        return None if is_ending or time.monotonic() < self._frozen_until else self.pid

    def was_stopped_uncleanly(self) -> bool:
        """Whether it ended at the end of its grace time, or because it was asked twice."""
        return self.status in UNCLEAN and signal.SIGTERM in self._sent

    def has_ended(self) -> bool:
        """Whether it has ended since the last call, so that it must be started again."""
        status = self.poll()
        if self._is_noted or status is None:
            return False
        self.status = status
        self._note(status)
        return True

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-2000:]

    def finish(self) -> None:
        """SIGCONT, SIGTERM, wait; the program must end cleanly."""
        if self._is_noted:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        status: int | None
        try:
            status = self.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            status = None
        if status == -signal.SIGKILL and self._is_armed:
            self._note(status)  # it was to die when it is stopped
        elif status not in (0, -signal.SIGTERM):
            self._tally.wrong.append(f"{self.kind} did not stop cleanly: {status} ({self.log})")
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait; this end is not recorded."""
        super().kill()
        self._is_noted = True

    def _note(self, status: int) -> None:
        self._is_noted = True
        if status == -signal.SIGKILL:
            self._tally.harmed.add(self.pid)
            by_itself = signal.SIGKILL not in self._sent
            self._tally.kills[f"{self.kind}, by itself" if by_itself else self.kind] += 1
        elif status in (0, -signal.SIGTERM) and signal.SIGTERM in self._sent:
            # The latter before it had a handler, and so before it had done anything.
            self._tally.others[f"{self.kind} stopped"] += 1
        elif status == 1 and BROKEN_TEXT in self.output:
            self._tally.others[f"{self.kind}, device broken"] += 1
        elif self.was_stopped_uncleanly() and self.kind.endswith("worker"):
            self._tally.others[f"{self.kind} stopped uncleanly"] += 1
        else:
            self._tally.wrong.append(f"{self.kind} ended with {status} ({self.log})")


def kill_marked(variable: str, value: str) -> int:
    """SIGKILL all processes that have `variable=value` in their environment; how many there were.

    It finds all descendants that inherited the environment, also those whose parents have ended,
    and those that a process starts while it dies.
    """
    mark = f"{variable}={value}".encode()
    killed: set[int] = set()
    while found := [process for process in _processes() if mark in _environment(process)]:
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        killed.update(found)
        time.sleep(0.01)
    return len(killed)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _environment(process: int) -> list[bytes]:
    """The variables that a process was started with; none once it is dead."""
    try:
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
