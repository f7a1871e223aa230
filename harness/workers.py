"""Workers that tests start, and names that tell their segments from others'."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import ROOT
from harness.forkserver import fork
from harness.process import Process, minimal_environment, python, spawn
from harness.redis_server import RedisClient
from harness.wire import Pipeline

STUB_WORKER = ROOT / "harness" / "launch.py"

#: Part of the names of all segments of this test run: others may be on this machine too.
OWN = f"t{os.getpid()}_"

#: Settings of workers that find out soon when another one is dead.
SOON = {"HEARTBEAT_INTERVAL_S": 0.1, "HEARTBEAT_TTL_S": 0.5, "REAP_INTERVAL_S": 0.3}


def segments() -> set[str]:
    """Names of all segments that these tests and their workers have made."""
    return {name for name in os.listdir("/dev/shm") if f"shm_{OWN}" in name}


class OwnPipeline(Pipeline):
    """The programs on either side of the worker, with names that `segments` tells from others'."""

    def put_array(self, array: Any, prefix: str = "img_shm_", name: str | None = None) -> Any:
        return super().put_array(array, f"{prefix}{OWN}", name)


class Worker(Process):
    """A worker of a test: a file of Python, with the environment that is given and no other.

    It runs in its log's folder, away from any .env. `behind` is a command that starts it.
    """

    def __init__(
        self,
        program: Path,
        environment: Mapping[str, str],
        log: Path,
        *,
        forked: bool = False,
        behind: Sequence[str] = (),
    ) -> None:
        super().__init__(
            [*behind, *python(program)],
            {**minimal_environment(), **environment},
            log,
            folder=log.parent,
            launch=fork if forked else spawn,
        )


def worker_id(client: RedisClient, worker: Process) -> str:
    """The id under which a worker process has registered."""
    for key in client.scan_iter("inpainting:worker:*"):
        beat = json.loads(client.get(key) or "{}")
        if beat.get("pid") == worker.pid:
            return str(key.decode()).removeprefix("inpainting:worker:")
    raise AssertionError(f"no heartbeat of process {worker.pid}")


StartWorker = Callable[..., Worker]
