"""A short run of everything: python -m chaos --minutes 5 is the long one."""

from __future__ import annotations

import re
import subprocess
import sys

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
