"""Memory that is freed is used again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness import ROOT
from lama.limits import KERNEL_CACHES

FAULTS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from core.machine import keep_freed_memory

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


#: A worker up to the moment that its network is loaded.
LOADING = """
import os, sys
from core.config import load_settings
from core.flow.service import serve
from lama.limits import KERNEL_CACHES
import core.network

def load(settings):
    assert "torch" not in sys.modules, "torch may have read its settings already"
    print(*(os.environ[name] for name in KERNEL_CACHES), flush=True)
    os._exit(0)

serve(load_settings(), load)
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


@pytest.mark.parametrize(
    ("given", "capacities"),
    [({}, "256 256"), ({"LRU_CACHE_CAPACITY": "99"}, "99 256")],
)
def test_the_kernel_caches_are_bounded_before_torch_is_loaded(
    given: dict[str, str], capacities: str
) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in KERNEL_CACHES}
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        cwd=ROOT,
        env=kept | given,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == capacities
