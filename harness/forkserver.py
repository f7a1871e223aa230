"""Starts Python programs as forks of a process that has imported libraries for them already.

That is most of the time that a worker takes to start. The project's own modules are each program's:
some look at the environment as they are imported.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import TimeoutExpired

from harness.process import Child

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["cv2", "numpy", "prometheus_client", "pydantic_settings", "redis.asyncio", "runpy"]
)


def fork(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path | None
) -> Child:
    """A launcher (see process.py) for this interpreter and a file.

    What Python and C libraries read from the environment as they start is not heeded.
    """
    interpreter, *program = command
    assert interpreter == sys.executable, "only programs of this interpreter can be forked"
    assert log is not None, "a fork writes to a log"
    log.touch()  # to be read at once
    return _Fork(program, dict(environment), folder, log)


class _Fork:
    """A forked program, with the methods of a `subprocess.Popen`."""

    def __init__(
        self, program: list[str], environment: dict[str, str], folder: Path, log: Path
    ) -> None:
        self._process = _CONTEXT.Process(target=_become, args=(program, environment, folder, log))
        self._process.start()
        assert self._process.pid is not None, "it was started"
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired(str(self.pid), timeout or 0.0)
        return self._process.exitcode


def _become(program: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
    """Run the program in this process, as if it had been started by itself."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with log.open("ab") as sink:
        for stream in (1, 2):
            os.dup2(sink.fileno(), stream)
    sys.argv = program
    runpy.run_path(program[0], run_name="__main__")
