"""Programs as forks of a process that has imported libraries for them already.

That is most of the time that a worker takes to start. The project's own modules are each program's:
some look at the environment as they are imported.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path
from subprocess import TimeoutExpired

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["cv2", "numpy", "prometheus_client", "pydantic_settings", "redis.asyncio", "runpy"]
)


class ForkedProcess:
    """A program that was started so, with the methods of a `subprocess.Popen`.

    What Python and C libraries read from the environment as they start is not heeded.
    """

    def __init__(self, program: Path, environment: dict[str, str], log: Path) -> None:
        log.touch()  # to be read at once
        self._process = _CONTEXT.Process(target=_become, args=(program, environment, log))
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

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(program: Path, environment: dict[str, str], log: Path) -> None:
    """Run the program in this process, as if it had been started by itself."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(log.parent)
    with log.open("wb") as sink:
        for stream in (1, 2):
            os.dup2(sink.fileno(), stream)
    sys.argv = [str(program)]
    runpy.run_path(str(program), run_name="__main__")
