"""`./run worker`: a worker with a Redis of its folder, or with the one that is named."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
import redis

from harness import ROOT
from harness.process import Process, python
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import Pipeline, page
from harness.workers import OWN, STUB_WORKER
from tests.core.support import command

RUN = "import sys; from pathlib import Path; from demo.local import main; "
RUN += "sys.exit(main([], Path(sys.argv[1]), Path(sys.argv[2])))"

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `./run worker` with a stub in place of the network, in a folder of the test's own."""
    running: list[Process] = []

    def start(**settings: object) -> Process:
        environment = {
            **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
            "PYTHONPATH": str(ROOT),
            "ADMIN_PORT": "0",
            "USE_CUDA": "0",
            "SHM_NAME_PREFIX": f"img_shm_{OWN}",
            **{name: str(value) for name, value in settings.items()},
        }
        process = Process(
            python("-c", RUN, tmp_path / "redis", STUB_WORKER),
            environment,
            tmp_path / f"log-{len(running)}",
            folder=tmp_path,
        )
        process.start()
        running.append(process)
        process.wait_for_line(" takes jobs from ")
        return process

    yield start
    for process in running:
        if process.is_running:
            process.stop()


def url_of(process: Process) -> str:
    """The address in the line to submit with."""
    (url,) = re.findall(
        r"^    REDIS_URL=(\S+) ./run python worker.py submit page.jpg page-mask.png -o clean.png$",
        process.output,
        re.MULTILINE,
    )
    return str(url)


def answers(url: str) -> bool:
    with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(url, protocol=2) as it:
        return bool(it.ping())
    return False


def test_the_line_that_it_prints_submits_a_picture_and_ctrl_c_stops_both(
    start: Start, tmp_path: Path, shm_baseline: None
) -> None:
    process = start()
    url = url_of(process)
    image, mask = page(60, 90, 1)
    for name, array in (("page.png", image), ("mask.png", mask)):
        cv2.imwrite(str(tmp_path / name), array)
    files = [tmp_path / name for name in ("page.png", "mask.png")]
    done = command("submit", *files, "-o", tmp_path / "clean.png", REDIS_URL=url)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clean.png").exists()
    assert process.stop(signal.SIGINT) == 0
    assert not answers(url)


def test_jobs_that_wait_are_done_after_the_next_start(
    start: Start, tmp_path: Path, shm_baseline: None
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    process = start(STUB_HOLD=hold, SHUTDOWN_GRACE_S=1, INPAINTING_BATCH_SIZE_SHORT=1)
    with Pipeline(url_of(process)) as pipeline:
        requests = [pipeline.submit(*page(60, 90, 1), "short", canvas=(60, 90)) for _ in range(3)]
        wait_until(lambda: pipeline.redis.llen(pipeline.queues["short"]) < 3, "one is claimed")
        process.stop(signal.SIGINT)
        again = start()
        with Pipeline(url_of(again)) as receiver:
            for request in requests:
                assert receiver.fetch(request).shape == (60, 90, 3)
        assert again.stop(signal.SIGINT) == 0


def test_a_second_one_joins_the_first_ones_redis_and_keeps_it(start: Start) -> None:
    first = start()
    second = start()
    url = url_of(first)
    assert url_of(second) == url
    with redis.Redis.from_url(url, protocol=2) as client:
        assert len(client.keys("inpainting:worker:*")) == 2
    assert first.stop() == 0
    assert answers(url)
    assert second.stop() == 0
    assert not answers(url)


def test_a_redis_that_is_named_is_used_and_none_is_started(
    start: Start, server: RedisServer, client: RedisClient, tmp_path: Path
) -> None:
    process = start(REDIS_URL=server.url)
    assert "a Redis of this folder" not in process.output
    assert not (tmp_path / "redis").exists()
    assert process.stop(signal.SIGINT) == 0
    (tmp_path / ".env").write_text(f"REDIS_URL={server.url}\n")
    process = start()
    assert "a Redis of this folder" not in process.output
    assert process.stop() == 0
    assert answers(server.url)
