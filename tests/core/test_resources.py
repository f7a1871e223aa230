"""What runs out or breaks costs time and no job: /dev/shm, Redis' memory, the device."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from core import keys
from core.pixels import shm
from harness.redis_server import RedisServer
from harness.wire import DEV_SHM, Pipeline, page
from harness.workers import ROOT, SOON, OwnPipeline, StartWorker, Worker, segments, wait_until

LONG = "lama_inference:longtasks"
CANVAS = (64, 96)
SMALL_SHM = ROOT / "harness/stub/small_shm.py"


def send(pipeline: Pipeline, seed: int = 1, **options: Any) -> str:
    return pipeline.submit(*page(60, 90, seed), "long", canvas=CANVAS, **options)


def processing(client: redis.Redis) -> int:
    return sum(client.llen(key) for key in client.scan_iter("inpainting:processing:*"))


# -- a full /dev/shm ----------------------------------------------------------------------------


class SmallShm:
    """A worker whose /dev/shm is small, and the pipeline's segments in it."""

    def __init__(self, worker: Worker, pipeline: Pipeline) -> None:
        self.worker = worker
        self.pipeline = pipeline
        self.folder = Path(f"/proc/{worker.process.pid}/root/dev/shm")

    def send(self, seed: int, **fields: Any) -> tuple[str, bytes]:
        """A job with its segments where the worker sees them: request id and payload."""
        message = self.pipeline.message(*page(60, 90, seed), "long", canvas=CANVAS, **fields)
        for field in ("preprocessed_img_shm_info", "preprocessed_mask_shm_info"):
            name = message[field]["shm_name"]
            shutil.move(DEV_SHM / name, self.folder / name)
        return message["request_id"], self.pipeline.push(message, "long")

    def fill(self) -> None:
        """Take all room that there is."""
        with (self.folder / "filler").open("wb", buffering=0) as filler, _until_full():
            while filler.write(bytes(4096)):
                pass
        with _until_full():
            for number in range(100):
                (self.folder / f"file-{number}").touch()

    def empty(self) -> None:
        """Give it back."""
        for path in (self.folder / "filler", *self.folder.glob("file-*")):
            path.unlink()

    def largest(self) -> list[int]:
        """The size of a picture whose result takes all room but that of its inputs."""
        whole, (rows, columns) = os.statvfs(self.folder), CANVAS
        inputs = shm.footprint(rows * columns * 3) + shm.footprint(rows * columns)
        return [1, (whole.f_blocks * whole.f_frsize - inputs) // 3]

    def results(self) -> list[str]:
        """The result segments: those of the worker's, whole or not."""
        return [name for name in os.listdir(self.folder) if name.count("-") > 3]

    def fetch(self, request: str) -> None:
        info = self.pipeline.result(request)["inpaint_shm_info"]
        assert (self.folder / info["shm_name"]).stat().st_size == info["size"] == 60 * 90 * 3
        (self.folder / info["shm_name"]).unlink()


class _until_full:
    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        return isinstance(error, OSError)


@pytest.fixture(params=["size=256k", "size=256k,nr_inodes=12"])
def small_shm(
    request: pytest.FixtureRequest,
    start_worker: StartWorker,
    pipeline: Pipeline,
    make_hold: Callable[[], Path],
) -> SmallShm:
    """A worker that holds its first job while /dev/shm fills up: no blocks, or no inodes."""
    worker = start_worker(
        SMALL_SHM, ready=False, STUB_SHM_OPTIONS=request.param, STUB_HOLD=make_hold()
    )
    wait_until(
        lambda: worker.process.poll() is not None or " takes jobs from " in worker.output,
        "the worker is ready",
    )
    if worker.process.poll() is not None:
        pytest.skip(f"a /dev/shm of one's own cannot be mounted here: {worker.output}")
    return SmallShm(worker, pipeline)


def test_a_result_waits_for_room_in_shared_memory_and_nothing_half_written_is_seen(
    small_shm: SmallShm, client: redis.Redis, tmp_path: Path
) -> None:
    first, _ = small_shm.send(1)
    small_shm.worker.wait_for_line("taken from")
    small_shm.fill()
    (tmp_path / "hold").unlink()
    small_shm.worker.wait_for_line("waits: /dev/shm has no room for 16200 bytes")
    assert not small_shm.results()
    assert processing(client) == 1
    assert not client.exists(keys.ATTEMPTS)
    small_shm.empty()
    small_shm.fetch(first)
    small_shm.fetch(small_shm.send(2)[0])
    assert small_shm.worker.stop() == 0
    assert not segments()


def test_a_worker_that_waits_for_room_can_be_stopped_and_puts_the_job_back(
    small_shm: SmallShm, client: redis.Redis, tmp_path: Path
) -> None:
    _, payload = small_shm.send(1)
    small_shm.worker.wait_for_line("taken from")
    small_shm.fill()
    (tmp_path / "hold").unlink()
    small_shm.worker.wait_for_line("has no room")
    assert small_shm.worker.stop() == 0
    assert client.lrange(LONG, 0, -1) == [payload]
    assert not client.exists(keys.ATTEMPTS)


@pytest.mark.parametrize("excess", [0, 1])
def test_a_result_that_shared_memory_can_never_hold_is_refused_and_holds_nobody_up(
    small_shm: SmallShm, client: redis.Redis, tmp_path: Path, excess: int
) -> None:
    rows, columns = small_shm.largest()
    size = [rows, columns + excess]
    before, _ = small_shm.send(1)
    request, payload = small_shm.send(2, original_size=size)
    after, _ = small_shm.send(3)
    (tmp_path / "hold").unlink()
    small_shm.fetch(before)
    small_shm.fetch(after)
    result = small_shm.pipeline.result(request)
    if excess:
        assert "which holds 262144 in all" in result["error"]
        (entry,) = map(json.loads, client.lrange(keys.DEAD, 0, -1))
        assert (entry["raw"], entry["reason"]) == (payload.decode(), "too_large")
    else:
        assert result["inpaint_shm_info"]["shape"] == [*size, 3]
        assert not client.exists(keys.DEAD)
    assert not client.exists(keys.ATTEMPTS)
    assert small_shm.worker.stop() == 0


def test_a_result_without_room_makes_way_for_the_jobs_whose_inputs_take_it(
    small_shm: SmallShm, client: redis.Redis, tmp_path: Path
) -> None:
    size = small_shm.largest()
    large, _ = small_shm.send(1, original_size=size)
    small_shm.worker.wait_for_line("taken from")  # for now there is room
    behind = [small_shm.send(seed)[0] for seed in (2, 3, 4)]
    (tmp_path / "hold").unlink()
    for request in behind:
        small_shm.fetch(request)
    assert small_shm.pipeline.result(large)["inpaint_shm_info"]["shape"] == [*size, 3]
    assert not client.exists(keys.ATTEMPTS, keys.DEAD)
    assert small_shm.worker.stop() == 0


def test_a_job_without_room_for_its_result_is_not_begun_and_holds_nobody_up(
    small_shm: SmallShm, client: redis.Redis, tmp_path: Path
) -> None:
    (small_shm.folder / "filler").write_bytes(bytes(64 << 10))
    (tmp_path / "hold").unlink()
    size = small_shm.largest()
    large, _ = small_shm.send(1, original_size=size)
    small_shm.worker.wait_for_line(f"request {large} is put behind the others of its queue")
    small_shm.fetch(small_shm.send(2)[0])
    assert f"request {large} taken from" not in small_shm.worker.output
    (small_shm.folder / "filler").unlink()
    assert small_shm.pipeline.result(large)["inpaint_shm_info"]["shape"] == [*size, 3]
    assert not client.exists(keys.ATTEMPTS, keys.DEAD)
    assert small_shm.worker.stop() == 0


# -- Redis without memory, and read-only ----------------------------------------------------------


@pytest.mark.parametrize(
    ("forbid", "allow", "complaint"),
    [
        (("CONFIG SET", "maxmemory", "1"), ("CONFIG SET", "maxmemory", "0"), "OutOfMemoryError"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "READONLY"),
    ],
)
def test_results_are_held_and_claims_stop_while_redis_takes_nothing(
    start_worker: StartWorker,
    make_hold: Callable[[], Path],
    shm_baseline: None,
    forbid: tuple[str, ...],
    allow: tuple[str, ...],
    complaint: str,
) -> None:
    with RedisServer() as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        worker = start_worker(REDIS_URL=server.url, STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1)
        requests = [send(pipeline, seed) for seed in range(4)]
        wait_until(
            lambda: worker.output.count("taken from") == 2, "one is computed, one is read ahead"
        )
        pipeline.redis.execute_command(*forbid)
        hold.unlink()
        worker.wait_for_line(complaint)
        wait_until(lambda: len(segments()) == 8 + 2, "both results are written")
        assert pipeline.redis.llen(LONG) == 2
        assert not any(pipeline.redis.exists(f"inpainting_result:{one}") for one in requests)
        pipeline.redis.execute_command(*allow)
        for request in requests:
            assert pipeline.fetch(request).shape == (60, 90, 3)
        worker.wait_for_line("redis is back")
        assert worker.stop() == 0
        assert not pipeline.redis.exists(keys.ATTEMPTS)


# -- a device that breaks or hangs ----------------------------------------------------------------


def test_a_broken_device_ends_the_process_and_costs_no_job(
    start_worker: StartWorker, pipeline: Pipeline, client: redis.Redis, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    requests = [send(pipeline, seed) for seed in range(6)]
    worker = start_worker(STUB_BROKEN=broken, ready=False, **SOON)
    assert worker.wait() == 1
    assert "the stub is broken: the process ends" in worker.output
    assert processing(client) == 0
    assert not client.exists(keys.DEAD, keys.ATTEMPTS)
    broken.unlink()
    start_worker(STUB_BROKEN=broken, **SOON)
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)


@pytest.mark.parametrize("device", [{}, {"STUB_STAGING": 1}], ids=["computing", "coming back"])
def test_what_a_hung_worker_had_is_done_by_the_next(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
    device: dict[str, int],
) -> None:
    requests = [send(pipeline, seed) for seed in range(6)]
    hung = start_worker(
        STUB_HOLD=make_hold(), INFERENCE_TIMEOUT_S=0.2, ready=False, **device, **SOON
    )
    assert hung.wait() == 1
    assert "is not done after INFERENCE_TIMEOUT_S=0.2" in hung.output
    assert not client.exists(keys.DEAD)
    start_worker(**device, **SOON)
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)


def test_a_worker_frozen_while_it_has_a_result_unlinks_it_when_it_may_not_commit_it(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    frozen = start_worker(STUB_HOLD=hold, **SOON)
    request = send(pipeline)
    frozen.wait_for_line("taken from")
    frozen.process.send_signal(signal.SIGSTOP)
    other = start_worker(**SOON)
    assert pipeline.fetch(request).shape == (60, 90, 3)
    hold.unlink()
    frozen.process.send_signal(signal.SIGCONT)
    frozen.wait_for_line("no longer this worker's")
    wait_until(lambda: not segments(), "its output is unlinked")
    assert not client.exists(f"inpainting_result:{request}")
    assert frozen.stop() == other.stop() == 0


# -- a device with memory of its own ---------------------------------------------------------------


def test_what_a_device_finishes_is_delivered_like_all_else(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    for name in ("whole", "shrunk"):
        image, mask = page(*{"whole": (60, 90), "shrunk": (100, 200)}[name], 3)
        results = []
        for settings in ({}, {"STUB_STAGING": 1}):
            worker = start_worker(**settings)
            request = pipeline.submit(image, mask, "long", canvas=CANVAS)
            results.append(pipeline.fetch(request))
            assert worker.stop() == 0
        assert np.array_equal(*results)


def test_a_device_that_breaks_while_a_picture_comes_back_costs_no_job(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: redis.Redis,
    make_hold: Callable[[], Path],
    tmp_path: Path,
) -> None:
    hold, broken, trace = make_hold(), tmp_path / "broken", tmp_path / "trace"
    worker = start_worker(
        STUB_STAGING=1, STUB_HOLD=hold, STUB_BROKEN=broken, STUB_TRACE=trace, **SOON
    )
    request = send(pipeline)
    wait_until(trace.exists, "it is computed")
    # Once the second is computed, the first was painted and is being waited for.
    other = send(pipeline, 2)
    wait_until(lambda: trace.read_text().count("\n") == 2, "the next one is")
    broken.touch()
    hold.unlink()
    assert worker.wait() == 1
    assert "the stub is broken: the process ends" in worker.output
    assert not client.exists(keys.DEAD)
    broken.unlink()
    start_worker(STUB_STAGING=1, **SOON)
    for one in (request, other):
        assert pipeline.fetch(one).shape == (60, 90, 3)
