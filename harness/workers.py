"""Workers that tests start: processes with their logs, and names that tell them from others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from harness.stub.forked import ForkedProcess
from harness.wire import Pipeline

ROOT = Path(__file__).parent.parent
STUB_WORKER = ROOT / "harness" / "stub" / "worker.py"

#: Part of the names of all segments of this test run: others may be on this machine too.
OWN = f"t{os.getpid()}_"

#: Settings of workers that find out soon when another one is dead.
SOON = {"HEARTBEAT_INTERVAL_S": 0.1, "HEARTBEAT_TTL_S": 0.5, "REAP_INTERVAL_S": 0.3}

#: Longest wait for a condition; reaching it is a failure.
PATIENCE_S = 30.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as `condition` holds; fail if it does not within PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_S:g} s in vain until {what}")
        time.sleep(0.005)


def segments() -> set[str]:
    """Names of all segments that these tests and their workers have made."""
    return {name for name in os.listdir("/dev/shm") if f"shm_{OWN}" in name}


class OwnPipeline(Pipeline):
    """The programs on either side of the worker, with names that `segments` tells from others'."""

    def put_array(self, array: Any, prefix: str = "img_shm_", name: str | None = None) -> Any:
        return super().put_array(array, f"{prefix}{OWN}", name)


class Worker:
    """A worker process with its log."""

    def __init__(
        self, program: Path, environment: dict[str, str], log: Path, forked: bool = False
    ) -> None:
        self.log = log
        self.program = program
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        whole = {**inherited, "PYTHONPATH": str(ROOT), **environment}
        self.process: subprocess.Popen[bytes] | ForkedProcess
        if forked:
            self.process = ForkedProcess(program, whole, log)
        else:
            with log.open("wb") as sink:
                self.process = subprocess.Popen(
                    [sys.executable, str(program)],
                    cwd=log.parent, env=whole, stderr=sink, stdout=sink,
                )  # fmt: skip

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_for_line(self, text: str) -> None:
        """Return once the log contains `text`."""
        wait_until(
            lambda: text in self.output or self.process.poll() is not None, f"the log has {text!r}"
        )
        assert text in self.output, self.output

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit status, once there is one."""
        return self.process.wait(PATIENCE_S)


def worker_id(client: redis.Redis, worker: Worker) -> str:
    """The id under which a worker process has registered."""
    for key in client.scan_iter("inpainting:worker:*"):
        beat = json.loads(client.get(key) or "{}")
        if beat.get("pid") == worker.process.pid:
            return str(key.decode()).removeprefix("inpainting:worker:")
    raise AssertionError(f"no heartbeat of process {worker.process.pid}")


StartWorker = Callable[..., Worker]
