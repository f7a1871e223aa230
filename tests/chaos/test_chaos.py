"""A short run of everything: python -m chaos --minutes 5 is the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import ROOT

#: What passes in that time. The rest needs longer: a namespace, say, must be gone for a while.
ONLY = "kill,stop,freeze,neighbour,redis,network,full,points"


@pytest.mark.timeout(240)
def test_nothing_is_lost_whatever_is_killed(shm_baseline: None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--minutes", "0.15", "--seed", "3", "--only", ONLY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    counts = {
        name: int(count) for name, count in re.findall(r"(?m)^(\w[\w ]*?) +(\d+)", done.stdout)
    }
    assert counts["kills"] >= 1
    assert counts["delivered"] >= 10
    assert counts["lost"] == counts["delivered twice"] == counts["segments left"] == 0


def test_a_folder_that_has_the_logs_of_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("sent 0\n")
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--logs", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"{tmp_path} is not empty" in done.stderr
