"""Workers whose log nobody reads, or cannot be written: they work as any other."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import ROOT
from harness.admin import PORT, Admin
from harness.jobs import send
from harness.process import Process
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline
from harness.workers import StartWorker

JOBS = 300

#: The size of a pipe that a collector of logs might have, if memory is short.
ROOM = 4096


class Collector:
    """The reader of a worker's standard error, a pipe. It reads when it is told to."""

    def __init__(self, folder: Path) -> None:
        path = folder / "pipe"
        os.mkfifo(path)
        self._reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, ROOM)
        self.behind = ("sh", "-c", f'exec "$@" 2> {path}', "sh")
        self.text = ""

    def read_until(self, text: str) -> None:
        """Read until the log has `text`, and no further."""

        def has_text() -> bool:
            while text not in self.text and select.select([self._reader], [], [], 0)[0]:
                self.text += os.read(self._reader, ROOM).decode()
            return text in self.text

        wait_until(has_text, f"the log has {text!r}")

    def fill(self) -> None:
        """Leave no room in the pipe."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._reader, b"x" * ROOM)

    def close(self) -> None:
        os.close(self._reader)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    made = Collector(tmp_path)
    yield made
    made.close()


def admin_of(worker: Process, collector: Collector) -> Admin:
    """The admin port of a worker, from the part of its log that was read."""
    worker.log.write_text(collector.text)
    return Admin(worker)


def test_a_worker_whose_log_nobody_reads_does_its_jobs_answers_probes_and_stops(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, collector: Collector
) -> None:
    worker = start_worker(behind=collector.behind, ready=False, ADMIN_PORT=PORT)
    collector.read_until(" takes jobs from ")
    admin = admin_of(worker, collector)
    for seed in range(JOBS):
        pipeline.fetch(send(pipeline, "short", seed))
    assert admin.ask("/livez").status == 200
    assert admin.ask("/readyz").status == 200
    assert admin.metrics()["inpainting_log_lines_dropped_total",] > JOBS
    assert worker.stop() == 0
    assert not client.keys("inpainting:worker*")


def test_signals_stop_a_worker_whose_log_nobody_reads(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    collector: Collector,
    make_hold: Callable[[], Path],
) -> None:
    worker = start_worker(
        behind=collector.behind, ready=False, ADMIN_PORT=PORT, STUB_HOLD=make_hold()
    )
    collector.read_until(" takes jobs from ")
    admin = admin_of(worker, collector)
    send(pipeline)
    collector.read_until("taken from")
    collector.fill()
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: admin.ask("/readyz").text.startswith("stopping"), "it stops")
    assert worker.stop() == 128 + signal.SIGTERM
    assert client.llen(LONG) == 1
    pipeline.close()


def test_a_worker_that_refuses_a_setting_ends_although_nobody_reads_that(
    start_worker: StartWorker, collector: Collector
) -> None:
    collector.fill()
    worker = start_worker(
        ROOT / "worker.py", behind=collector.behind, ready=False, MAX_ATTEMPTS="none"
    )
    assert worker.wait() == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_once_the_log_is_read_again_it_says_what_it_lacks_and_goes_on(
    start_worker: StartWorker, pipeline: Pipeline, collector: Collector, form: str
) -> None:
    worker = start_worker(
        behind=collector.behind, ready=False, ADMIN_PORT=PORT, LOG_FORMAT=form, LOG_LEVEL="INFO"
    )
    collector.read_until(" takes jobs from ")
    admin = admin_of(worker, collector)

    def dropped() -> int:
        return int(admin.metrics()["inpainting_log_lines_dropped_total",])

    def work() -> str:
        request = send(pipeline, "short")
        pipeline.fetch(request)
        return request

    while not dropped():
        work()
    lost = work()
    wait_until(lambda: admin.status["batches"][0]["request_ids"] == [lost], "its batch is logged")
    collector.read_until("standard error was not read for ")  # with no job in between
    before = dropped()
    last = work()
    collector.read_until(last)
    worker.send_signal(signal.SIGTERM)
    collector.read_until("stopped")
    assert worker.wait() == 0
    assert dropped_by(collector.text) == before
    assert lost not in collector.text
    lines = collector.text.splitlines()
    if form == "json":
        lines = [json.loads(line)["message"] for line in lines]
    for line in lines:
        assert "batch of" not in line or line.count("post-processing") == 1


def dropped_by(text: str) -> int:
    """How many lines were dropped, by the log."""
    _, _, counted = text.partition("standard error was not read for ")
    return int(counted.partition("dropped ")[2].split()[0])


@pytest.mark.parametrize("sink", ["2>&-", "2> /dev/full", "<&- >&- 2>&-"])
def test_a_worker_whose_log_cannot_be_written_does_its_jobs_and_stops(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, sink: str
) -> None:
    worker = start_worker(behind=("sh", "-c", f'exec "$@" {sink}', "sh"), ready=False)
    pipeline.fetch(send(pipeline, "short"))
    explosion = send(pipeline, "short", image_id="explode.jpg")  # is logged with its traceback
    wait_until(lambda: client.llen("inpainting:dead") == 1, f"{explosion} is dead")
    assert worker.stop() == 0
    assert worker.output == ""


def test_spans_that_nobody_reads_keep_no_worker_from_stopping(
    start_worker: StartWorker, pipeline: Pipeline, collector: Collector
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    worker = start_worker(
        behind=("sh", "-c", collector.behind[2].replace("2>", ">"), "sh"),
        OTEL_TRACES_EXPORTER="console",
        OTEL_SDK_DISABLED="false",
    )
    for seed in range(10):
        pipeline.fetch(send(pipeline, "short", seed))
    assert worker.stop() == 0
