"""One worker and many jobs: python -m chaos.soak --jobs 10000 is the long run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.programs import Program, Tally
from chaos.soak import Soak, Vitals, vitals
from core.pixels import shm
from harness import ROOT
from harness.redis_server import RedisClient
from harness.wire import DEV_SHM
from harness.workers import OWN


@pytest.mark.timeout(120)
def test_what_a_worker_uses_levels_off_and_nothing_is_left_of_many_jobs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chaos.soak", "--tiny", "--jobs", "600"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    sizes = re.match(r"600 jobs of (\d+) sizes", done.stdout)
    assert sizes is not None
    assert int(sizes[1]) > 500


@pytest.mark.parametrize(
    ("last", "times", "what"),
    [
        (Vitals(150.0, 14, 7), 1, "memory grew by 50.0 MiB"),
        (Vitals(100.0, 18, 7), 10, "descriptors: 14, later 18"),  # a single time is a segment's
        (Vitals(100.0, 14, 8), 1, "threads: 7, later 8"),
    ],
)
def test_what_does_not_level_off_is_found(last: Vitals, times: int, what: str) -> None:
    soak = Soak(None, Program("worker", [], Tally(), Path("log")), "tag", 1)
    soak.samples = [Vitals(80.0, 10, 4), *[Vitals(100.0, 14, 7)] * 20]
    assert soak.wrong() == []
    soak.samples += [last] * times
    (found,) = soak.wrong()
    assert what in found


def test_a_worker_that_ends_is_told_with_its_last_words(
    client: RedisClient, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker = Program("worker", ["-c", "raise SystemExit('out of order')"], Tally(), log)
    worker.start()
    try:
        soak = Soak(client, worker, f"{OWN}soak", 1)
        with pytest.raises(RuntimeError, match=r"ended before job 0 was done: out of order"):
            soak.run(1, os.getpid())
    finally:
        worker.kill()
        shm.unlink_all([path.name for path in DEV_SHM.glob(f"*{OWN}soak*")], {os.getuid()})


def test_vitals_are_a_processs_own() -> None:
    before = vitals(os.getpid())
    with open("/dev/null") as _:
        assert vitals(os.getpid()).descriptors == before.descriptors + 1
    assert before.memory_mib > 10
    assert before.threads >= 1
