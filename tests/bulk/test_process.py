"""The command as a process: its exit status, and how much memory it takes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import numpy as np

from benchmarks.machine import MEASURED_WORKER
from harness import ROOT
from harness.waiting import PATIENCE_S, wait_until
from tests.bulk.catalogue import Catalogue, content, mask_for, opened, photograph


def test_the_exit_status_says_whether_a_picture_failed(catalogue: Catalogue) -> None:
    catalogue.put("bad.jpg", b"no picture", np.zeros((8, 8), np.uint8))
    done = subprocess.run(
        catalogue.command(), env=catalogue.environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "0 done, 0 there already, 1 failed (1 undecodable; see failures.jsonl)" in done.stderr


def test_a_run_that_erased_nothing_fails(catalogue: Catalogue) -> None:
    catalogue.put("a.png", content(photograph(40, 56)), np.zeros((40, 56), np.uint8))
    done = subprocess.run(
        catalogue.command("--json"), env=catalogue.environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert (said["done"], said["without_hole"], said["failed"]) == (0, 1, 0)


def test_an_interrupted_process_has_status_130(catalogue: Catalogue) -> None:
    for number in range(100):
        catalogue.put(f"{number}.png", content(photograph(400, 400)), mask_for(400, 400))
    process = subprocess.Popen(
        catalogue.command(), env=catalogue.environment, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: any(catalogue.clean.glob("*.png")), "a result")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    (left, finished) = re.findall(r"interrupted, (\d+) left.*\n.*?(\d+) done, 0 there", said)[0]
    assert int(left) + int(finished) == 100
    assert len(list(catalogue.clean.glob("*.png"))) == int(finished)
    assert "Traceback" not in said


def test_a_strip_with_ten_captions_needs_little_memory(catalogue: Catalogue) -> None:
    strip = np.tile(photograph(2000, 860), (5, 1, 1))
    mask = np.zeros(strip.shape[:2], np.uint8)
    for top in range(400, 10_000, 1000):
        mask[top : top + 60, 200:660] = 255
    catalogue.put("strip.png", content(strip, compress_level=1), mask)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED_WORKER, *catalogue.command()[2:]],
        env={**catalogue.environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    peak, before = map(int, done.stdout.split())
    assert peak - before < 0.7e9
    after = np.array(opened(catalogue.clean / "strip.png"))
    assert np.array_equal(after[mask == 0], strip[mask == 0])
    assert (after[mask > 0] != strip[mask > 0]).any(axis=1).mean() > 0.5
