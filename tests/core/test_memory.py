"""Memory that is freed is used again."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

FAULTS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from core.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def work(_):
    for size in (3_000_000, 4_000_000, 40_000_000, 90_000_000):
        np.ones(size, np.uint8)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

with ThreadPoolExecutor(2) as pool:
    list(pool.map(work, range(8)))
    before = faults()
    list(pool.map(work, range(8)))
    print(faults() - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_large_arrays_in_threads_cost_no_fresh_pages() -> None:
    # 137 MB are 33,000 pages of 4 kB each time, less where the system has larger ones.
    assert faults("keep") < faults("leave") / 3
