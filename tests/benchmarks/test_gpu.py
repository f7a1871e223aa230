"""`python -m benchmarks.gpu`: its parts, their limits, and what an error of one leads to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import program
from benchmarks.gpu.cuda_tests import FOLDER, REASON, needs_cuda
from benchmarks.gpu.program import Lines, Part
from benchmarks.gpu.watched import Watch, middle, read, stillness
from harness import ROOT
from harness.waiting import wait_until

Kept = list[dict[str, Any]]

SAYS = "print('{\"figure\": 1.5}', flush=True)"


def run(path: Path, programs: Mapping[Part, str], **options: Any) -> Kept:
    """The lines that are kept of parts which are these programs."""
    lines = Lines(path / "gpu.jsonl")

    def command(part: Part) -> Sequence[str]:
        return [sys.executable, "-S", "-c", programs[part]]

    program.run(list(programs), command, lines, **{"has_cuda": True, "budget_s": 60, **options})
    lines.close()
    return [json.loads(line) for line in (path / "gpu.jsonl").read_text().splitlines()]


def said(kept: Kept, *names: str) -> list[tuple[str, Any]]:
    """Of each line with one of these fields its part and the field's value."""
    return [(line["part"], line[name]) for line in kept for name in names if name in line]


def test_parts_come_in_order_and_each_line_is_printed_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = run(tmp_path, {Part("first", 20): SAYS, Part("second", 20): SAYS + "; print('words')"})
    assert said(kept, "figure", "text") == [("first", 1.5), ("second", 1.5), ("second", "words")]
    assert [part for part, _ in said(kept, "took s")] == ["first", "second"]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(kept)
    assert "first       figure 1.5" in printed[0]


def test_an_error_is_said_and_the_next_part_runs(tmp_path: Path) -> None:
    bad = f"{SAYS}; raise ValueError('no such kernel in {ROOT}/x.py')"
    kept = run(tmp_path, {Part("bad", 20): bad, Part("next", 20): SAYS})
    assert said(kept, "error") == [("bad", "ValueError: no such kernel in …/x.py")]
    assert said(kept, "figure") == [("bad", 1.5), ("next", 1.5)]


def test_a_part_that_dies_is_an_error_too(tmp_path: Path) -> None:
    kept = run(tmp_path, {Part("bad", 20): "import os; os.kill(os.getpid(), 9)"})
    assert said(kept, "error") == [("bad", "status -9")]


def test_a_part_is_stopped_at_its_limit_and_its_lines_are_kept(tmp_path: Path) -> None:
    slow = f"{SAYS}; import time; time.sleep(60)"
    kept = run(tmp_path, {Part("slow", 2): slow, Part("next", 20): SAYS})
    assert said(kept, "figure") == [("slow", 1.5), ("next", 1.5)]
    assert said(kept, "stopped") == [("slow", "not done after 2 s")]
    assert dict(said(kept, "took s"))["slow"] < 10


def test_what_a_part_leaves_behind_is_ended() -> None:
    """In a process of its own, as it adopts what nobody else does."""
    left = "import subprocess, sys; print(subprocess.Popen(['sleep', '600'], process_group=0).pid)"
    code = (
        "from benchmarks.gpu.program import *; from pathlib import Path; adopt_orphans();"
        "run([Part('a', 5)], lambda _: [sys.executable, '-S', '-c', sys.argv[1]],"
        " Lines(Path('/dev/null')), has_cuda=True, budget_s=9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, left], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pid = int(done.stdout.splitlines()[0].rpartition("text ")[2])
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "it is gone")


def test_a_thread_that_ends_while_children_are_listed_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = Path.iterdir
    gone = Path("/proc/self/task/0")
    monkeypatch.setattr(Path, "iterdir", lambda path: [gone, *listed(path)])
    with subprocess.Popen(["sleep", "600"]) as child:
        assert child.pid in program._children()
        child.kill()


def test_without_a_gpu_a_part_that_needs_one_is_skipped(tmp_path: Path) -> None:
    programs = {Part("tests", 20, needs_cuda=True): SAYS, Part("ceilings", 20): SAYS}
    kept = run(tmp_path, programs, has_cuda=False)
    assert said(kept, "skipped", "figure") == [("tests", "no CUDA device"), ("ceilings", 1.5)]


def test_what_does_not_fit_into_the_budget_is_said(tmp_path: Path) -> None:
    slow = "import time; time.sleep(60)"
    kept = run(tmp_path, {Part("slow", 50): slow, Part("late", 50): SAYS}, budget_s=11)
    assert said(kept, "stopped") == [("slow", "not done after 11 s")]
    assert said(kept, "skipped") == [("late", "no time is left of 11 s")]


def test_every_part_that_is_listed_can_be_run() -> None:
    from benchmarks.gpu.__main__ import BUDGET_S
    from benchmarks.gpu.parts import MEASURES, PARTS

    assert len({part.name for part in PARTS}) == len(MEASURES)
    assert all(part.limit_s < BUDGET_S / 2 for part in PARTS)
    assert BUDGET_S + 2 * program.GRACE_S <= 8 * 60


def test_the_tests_that_need_a_gpu_are_found_by_how_they_are_skipped() -> None:
    sources = [path.read_text() for path in (ROOT / FOLDER).glob("test_*.py")]
    marks = [text for text in sources if "skipif(not torch.cuda.is_available()" in text]
    assert marks
    assert all(f'reason="{REASON}"' in text for text in marks)


@pytest.mark.skipif(False, reason="there is no CUDA device")
def test_a_test_that_is_skipped_without_a_gpu_is_chosen(request: pytest.FixtureRequest) -> None:
    assert needs_cuda(request.node)


@pytest.mark.parametrize("value", ["cpu", np.zeros(2), "cuda"])
def test_of_the_others_only_those_about_cuda_are(
    value: object, request: pytest.FixtureRequest
) -> None:
    assert needs_cuda(request.node) == (isinstance(value, str) and value == "cuda")


class Event:
    """Of a device's time line in ms: reached at a time, once the clock is there."""

    clock, now = iter(range(0, 1000, 10)), 0

    def record(self) -> None:
        self.at = next(self.clock)

    def query(self) -> bool:
        return self.at <= Event.now

    def elapsed_time(self, later: Event) -> float:
        return later.at - self.at


def test_a_worker_notes_batches_and_gaps_once_they_are_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.watched._event", Event)
    paint = Watch(tmp_path / "notes").around(lambda pixels: pixels + 1)
    assert [paint(number) for number in range(3)] == [1, 2, 3]
    assert read(tmp_path) == []
    Event.now = 30  # the first two batches are done, at 0 to 10 and 20 to 30
    paint(0)
    assert read(tmp_path) == ["10 10"]


def test_gaps_are_read_from_what_a_worker_notes() -> None:
    lines = ["3.0 9.0", *["3.0 1.0"] * 3, "3.0 9.0"]
    found = stillness(middle(lines, 1))
    assert found["busy"] == pytest.approx(0.75)
    assert found["gap ms"] == 1.0
    assert stillness(middle(lines, 3)) == {}
