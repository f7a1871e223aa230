import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks.report import RESULTS, Report


def test_a_result_says_what_was_typed_but_no_folder_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["region.py", f"{tmp_path}/val", "--ways", "engine half", f"--json={tmp_path}/out.json"]
    monkeypatch.setattr(sys, "argv", [*typed, "a/b"])
    report = Report("region", ("what",), tmp_path / "region.json")
    report.add(what="strip", seconds=1.5)
    written = report.write().read_text()
    (row,) = json.loads(written)["rows"]
    assert row["command"].endswith(" val --ways 'engine half' --json=out.json a/b")
    assert str(tmp_path) not in written


def test_a_row_that_is_measured_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for seconds in (1.5, 2.5):
        report = Report("region", ("what",), tmp_path / "region.json")
        report.add(what="strip", seconds=seconds)
        report.add(what=f"at {seconds}", seconds=seconds)
        path = report.write()
    rows = json.loads(path.read_text())["rows"]
    assert {row["what"]: row["seconds"] for row in rows} == {
        "strip": 2.5,
        "at 1.5": 1.5,
        "at 2.5": 2.5,
    }
    assert len(rows) == 3


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_kept_results_name_no_folder_of_the_machine_they_came_from(path: Path) -> None:
    for row in json.loads(path.read_text())["rows"]:
        assert not re.search(r"(^|[\s='\"])/", row.get("command", ""))
