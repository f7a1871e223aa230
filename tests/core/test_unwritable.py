"""A worker that cannot write results claims nothing, and costs no job an attempt."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core import keys
from core.pixels import shm
from harness import ROOT
from harness.admin import PORT, Admin
from harness.jobs import send
from harness.private import same_shm
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline
from harness.workers import SOON, StartWorker, Worker, segments
from tests.core.private import needs_mounts

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="capabilities are root's")


def remount(worker: Worker, mode: str) -> None:
    """Make a worker's /dev/shm read-only or writable."""
    enter = ["nsenter", "-t", str(worker.pid), "--mount"]
    subprocess.run([*enter, "mount", "-o", f"remount,{mode},bind", "/dev/shm"], check=True)


@needs_mounts
def test_a_worker_with_a_read_only_shared_memory_leaves_all_jobs_to_others_and_says_so(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    requests = [send(pipeline, ("long", "short")[seed % 2], seed) for seed in range(20)]
    worker = start_worker(behind=same_shm("ro"), ADMIN_PORT=PORT, **SOON)
    reply = Admin(worker).wait_for("/readyz", 503)
    assert "/dev/shm is mounted read-only" in reply.text
    worker.wait_for_line("no jobs are taken: /dev/shm is mounted read-only")
    assert client.llen(LONG) == 10
    start_worker(**SOON)
    for request in requests:
        assert pipeline.fetch(request).shape == (60, 90, 3)
    assert not client.exists(keys.DEAD, keys.ATTEMPTS)
    wait_until(lambda: not segments(), "the inputs are unlinked")
    assert worker.stop() == 0


@needs_mounts
def test_jobs_go_on_once_shared_memory_can_be_written_again(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(behind=same_shm("ro"), ADMIN_PORT=PORT, **SOON)
    request = send(pipeline)
    Admin(worker).wait_for("/readyz", 503)
    remount(worker, "rw")
    assert pipeline.fetch(request).shape == (60, 90, 3)
    Admin(worker).wait_for("/readyz", 200)
    assert not client.exists(keys.DEAD, keys.ATTEMPTS)
    wait_until(lambda: not segments(), "the inputs are unlinked")


@needs_mounts
def test_a_batch_whose_results_cannot_be_written_is_given_back_without_an_attempt(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    hold = make_hold()
    worker = start_worker(behind=same_shm("rw"), STUB_HOLD=hold, ADMIN_PORT=PORT, **SOON)
    request = send(pipeline)
    wait_until(lambda: not client.llen(LONG), "it is claimed")
    remount(worker, "ro")
    hold.unlink()
    Admin(worker).wait_for("/readyz", 503)
    wait_until(lambda: client.llen(LONG) == 1, "it is given back")
    start_worker(**SOON)
    assert pipeline.fetch(request).shape == (60, 90, 3)
    assert not client.exists(keys.DEAD, keys.ATTEMPTS)
    wait_until(lambda: not segments(), "the inputs are unlinked")


def as_other(program: str, *drop: str) -> str:
    """What a program prints that runs behind setpriv."""
    words = ["setpriv", *drop, sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    return done.stdout


CHECK = """
from core.errors import SharedMemoryRefusal
from core.pixels import shm
shm.SHM_FOLDER = {folder!r}
try:
    shm.check_writable({owner})
except SharedMemoryRefusal as refusal:
    print(refusal)
"""


@only_root
def test_a_folder_that_lets_this_process_write_nothing_is_named_with_its_mode(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o555)
    os.chown(tmp_path, 12345, -1)
    drop = "--bounding-set=-dac_override"
    said = as_other(CHECK.format(folder=str(tmp_path), owner=None), drop)
    assert f"uid 0 may not write to {tmp_path}" in said
    assert "it has uid 12345 and mode 0555" in said


@only_root
def test_root_without_the_right_to_give_results_away_is_told_so() -> None:
    said = as_other(CHECK.format(folder=shm.SHM_FOLDER, owner=12345), "--bounding-set=-chown")
    assert "CAP_CHOWN" in said
    assert "uid 12345" in said


@needs_mounts
def test_what_a_worker_cannot_unlink_is_left_to_others(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Callable[[], Path],
) -> None:
    dying = start_worker(FAULT_POINT="committed", **SOON)
    first = send(pipeline, seed=1)
    assert dying.wait() != 0
    worker = start_worker(behind=same_shm("ro"), **SOON)  # with jobs of a dead worker to clean up
    worker.wait_for_line("recovery is left to others")
    assert len(segments()) == 3  # the inputs, and the result
    assert pipeline.fetch(first).shape == (60, 90, 3)
    start_worker(**SOON)
    wait_until(lambda: not segments(), "another worker unlinks the inputs")
    assert worker.stop() == 0


@needs_mounts
def test_inputs_that_cannot_be_unlinked_after_a_commit_are_left_to_others(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    worker = start_worker(behind=same_shm("rw"), **SOON)
    assert pipeline.fetch(send(pipeline, seed=1)).shape == (60, 90, 3)
    wait_until(lambda: not segments(), "the inputs are unlinked")
    remount(worker, "ro")
    late = send(pipeline, seed=2, expires_at=1)
    wait_until(lambda: client.hget(keys.result(late), "reason") == b"expired", "it is told")
    assert worker.stop() == 0
    assert len(segments()) == 2
    start_worker(**SOON)
    wait_until(lambda: not segments(), "another worker unlinks the inputs")
    wait_until(lambda: not client.keys("inpainting:cleanup:*"), "nothing is to be cleaned")


def test_nothing_is_left_of_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm, "SHM_FOLDER", str(tmp_path))
    shm.check_writable(os.geteuid())
    assert not os.listdir(tmp_path)
