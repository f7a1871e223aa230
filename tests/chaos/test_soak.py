"""One worker and many jobs: python -m chaos.soak --jobs 10000 is the long run."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from chaos.soak import Soak, Vitals, vitals
from tests.conftest import ROOT


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
    ("last", "what"),
    [
        (Vitals(150.0, 14, 7), "memory grew by 50.0 MiB"),
        (Vitals(100.0, 18, 7), "descriptors: 14, later 18"),
        (Vitals(100.0, 14, 8), "threads: 7, later 8"),
    ],
)
def test_what_does_not_level_off_is_found(last: Vitals, what: str) -> None:
    soak = Soak(None, "tag", 1)
    soak.samples = [Vitals(80.0, 10, 4), *[Vitals(100.0, 14, 7)] * 20]
    assert soak.wrong() == []
    soak.samples.append(last)
    (found,) = soak.wrong()
    assert what in found


def test_vitals_are_a_processs_own() -> None:
    before = vitals(os.getpid())
    with open("/dev/null") as _:
        assert vitals(os.getpid()).descriptors == before.descriptors + 1
    assert before.memory_mib > 10
    assert before.threads >= 1
