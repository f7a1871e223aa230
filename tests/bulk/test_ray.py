"""The same run on Ray: two nodes on this machine, of which one is lost."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bulk import on_ray
from bulk.errors import BulkRefused
from bulk.on_ray import networks
from bulk.run import Request, prepare
from harness.waiting import wait_until
from tests.bulk.catalogue import Catalogue, settings

missing = importlib.util.find_spec("ray") is None
needs_ray = pytest.mark.skipif(missing, reason="Ray is not installed: ray_requirements.txt")

PICTURES = 60
MEMORY = 200_000_000

#: Longest wait for what needs an actor to be started.
START_S = 120.0

#: For the nodes and for the run: a token of the cluster's own, and what is found out sooner.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(16),
    "RAY_worker_niceness": "0",  # else they starve beside anything else
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


def _wait_long(condition: Callable[[], bool]) -> None:
    """Return once it holds: an actor takes many seconds to start where others want the cores."""
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, f"not in {START_S:g} s"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _below(root: int) -> list[int]:
    """A process and all that came of it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                parent = int(stat.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _title(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


class Node:
    """A node of a cluster in a process of its own."""

    def __init__(self, host: str, *arguments: str) -> None:
        program = Path(sys.executable).with_name("ray")
        command = [
            str(program),
            "start",
            "--block",
            f"--node-ip-address={host}",
            "--num-cpus=2",
            f"--object-store-memory={MEMORY}",
            *arguments,
        ]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def is_up(self) -> bool:
        return any("raylet/raylet" in _title(one) for one in _below(self.process.pid))

    def networks(self) -> list[int]:
        """The processes of its actors."""
        return [one for one in _below(self.process.pid) if "ray::MapWorker" in _title(one)]

    def kill(self) -> None:
        for process in _below(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def cluster() -> Iterator[tuple[str, Node, Node]]:
    """The address of a cluster of two nodes, and these."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: there are sockets in it
    address = f"127.0.0.1:{_free_port()}"
    head = Node(
        "127.0.0.1",
        "--head",
        f"--port={address.rpartition(':')[2]}",
        "--include-dashboard=false",
        f"--temp-dir={folder}",
    )
    nodes = [head]
    try:
        wait_until(head.is_up, "the head is up")
        nodes.append(Node("127.0.0.2", f"--address={address}"))
        wait_until(nodes[1].is_up, "the second node is up")
        yield address, head, nodes[1]
    finally:
        for node in reversed(nodes):
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


@needs_ray
@pytest.mark.timeout(400)  # starting Ray and a network in each actor takes most of it
def test_every_picture_is_done_though_an_actor_and_then_a_node_is_killed(
    catalogue: Catalogue, cluster: tuple[str, Node, Node], tmp_path: Path
) -> None:
    address, head, other = cluster
    for number in range(PICTURES):
        catalogue.add(f"{number % 3}/{number}.png", (200, 240 + number), number)
    catalogue.put("bad.png", b"no picture")
    log = tmp_path / "log"
    with log.open("wb") as sink:
        run = subprocess.Popen(
            catalogue.command("--ray", address, "--workers", "2"),
            env={**catalogue.environment, **ENVIRONMENT},
            stderr=sink,
        )

    def done(least: int) -> bool:
        return len([*catalogue.clean.rglob("*.png")]) >= least or run.poll() is not None

    try:
        _wait_long(lambda: done(1))
        victims = head.networks() + other.networks()
        assert run.poll() is None, log.read_text()
        assert victims
        os.kill(victims[0], signal.SIGKILL)
        _wait_long(lambda: done(10))
        assert run.poll() is None, "it had ended before the node was killed"
        other.kill()
        status = run.wait(120)
    finally:
        run.kill()
        run.wait()
    assert status == 1, log.read_text()  # the bad picture
    assert catalogue.failures == {"bad.png": "no_mask"}
    assert len(catalogue.results) == PICTURES
    for name in sorted(catalogue.results)[::25]:
        catalogue.check(name)


@needs_ray
def test_an_address_where_no_cluster_is_is_refused(catalogue: Catalogue) -> None:
    catalogue.add("a.png")
    with pytest.raises(BulkRefused, match=r"--ray 127\.0\.0\.1:\d+: there is no cluster to join"):
        catalogue.run(ray=f"127.0.0.1:{_free_port()}")


def test_no_thread_that_loaded_the_network_stays_beside_the_one_that_uses_it(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders: list[threading.Thread] = []

    def load(*_: object) -> None:
        loaders.append(threading.current_thread())

    monkeypatch.setattr("core.network.load_inpainter", load)
    monkeypatch.setattr("core.network.settle_memory", lambda: None)
    catalogue.add("a.png")
    places = str(catalogue.pages), str(catalogue.clean), str(catalogue.masks)
    work, _ = prepare(Request(*places), settings())
    on_ray._Fill(settings(), work, 0)
    (loader,) = loaders
    assert not loader.is_alive()


def test_there_is_a_network_per_gpu_or_per_core_that_has_memory() -> None:
    gpu = {"CPU": 16.0, "GPU": 2.0}
    assert networks(gpu, True, 0) == (2, {"num_gpus": 1.0, "num_cpus": 1, "threads": 0})
    assert networks(gpu, True, 4)[1]["num_gpus"] == 0.5
    assert networks(gpu, False, 0) == (16, {"num_cpus": 0.25, "threads": 1})
    assert networks(gpu, False, 4) == (4, {"num_cpus": 0.25, "threads": 4})
    scarce = {"CPU": 16.0, "memory": 9e9}
    assert networks(scarce, False, 0) == (4, {"num_cpus": 0.25, "threads": 4})
    assert networks({"CPU": 2.0, "memory": 1e8}, True, 0) == (1, {"num_cpus": 0.25, "threads": 2})
    assert networks({"CPU": 1.0}, True, 0) == (1, {"num_cpus": 0.25, "threads": 1})
    # Decoding has a place beside the networks, even when half of the nodes are gone.
    for cores in range(2, 40, 2):
        size, share = networks({"CPU": float(cores)}, False, 0)
        assert size * share["num_cpus"] + 0.5 <= cores / 2
