"""A program in a process of its own: started, watched, signalled, waited for and stopped.

The workers of the tests, the programs that chaos restarts, the demo's worker, the benchmarks'
receivers and the private Redis are all of this kind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from harness import ROOT
from harness.waiting import PATIENCE_S, wait_until


class Child(Protocol):
    """What a launcher returns; `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None:
        """The exit status; None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one; raises subprocess.TimeoutExpired."""


#: Starts a command: its words, its environment, its working folder, and its log or None.
Launcher = Callable[[Sequence[str], Mapping[str, str], Path, Path | None], Child]


def python(*arguments: object) -> list[str]:
    """The command that runs this interpreter with these arguments."""
    return [sys.executable, *map(str, arguments)]


def minimal_environment() -> dict[str, str]:
    """PATH, HOME and the way to the project's modules.

    No setting of the shell that runs this reaches a program with this environment.
    """
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**inherited, "PYTHONPATH": str(ROOT)}


def spawn(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path | None
) -> Child:
    """Start a command with the system's means."""
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("ab"))
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,  # Ctrl-C reaches us, and we stop what we have started
        )


class Process:
    """A program in a process of its own.

    Its output is appended to `log`; without one it goes where ours goes. It can be started again
    once it has ended. As a context manager it is started, and killed at the end.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None = None,
        *,
        folder: Path = ROOT,
        launch: Launcher = spawn,
    ) -> None:
        self.pid = 0  # of the process that runs, or ran last
        self._command = command
        self._environment = environment
        self._log = log
        self._folder = folder
        self._launch = launch
        self._child: Child | None = None
        self._log_start = 0  # where the output of the process begins that was started last

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self, **extra: str) -> None:
        """Start the program, with more environment variables."""
        self._log_start = len(self.log.read_bytes()) if self._log and self._log.exists() else 0
        self._child = self._launch(
            self._command, {**self._environment, **extra}, self._folder, self._log
        )
        self.pid = self._child.pid

    @property
    def log(self) -> Path:
        """The log file; it must have been given."""
        assert self._log is not None, "this process has no log of its own"
        return self._log

    @property
    def output(self) -> str:
        """What the process that runs, or ran last, has written."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._log_start :].decode("utf-8", "replace")

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def poll(self) -> int | None:
        """The exit status; None while it runs, and before it was started."""
        return None if self._child is None else self._child.poll()

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """The exit status, once there is one; raises subprocess.TimeoutExpired."""
        assert self._child is not None, "it must have been started"
        return self._child.wait(timeout)

    def wait_for_line(self, text: str) -> None:
        """Return once the log contains `text`; fail if the process ends without."""
        wait_until(lambda: text in self.output or not self.is_running, f"the log has {text!r}")
        assert text in self.output, self.output

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = PATIENCE_S) -> int:
        """Send a signal, wait for the end; the exit status.

        Kills a process that does not end in time, and raises subprocess.TimeoutExpired.
        """
        try:
            self.send_signal(number)
            return self.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, if it runs, and wait for the end."""
        if self._child is not None:
            self.send_signal(signal.SIGKILL)
            self._child.wait()
