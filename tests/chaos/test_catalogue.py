"""A run over a catalogue that is killed: python -m chaos.catalogue is the long run, on Ray too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chaos.pages import Page, Picture, draw
from chaos.programs import kill_marked
from chaos.results import Fill, Results
from harness import ROOT
from harness.fills import fill_mean
from lama.regions import inpaint
from tests.bulk.catalogue import FILES

COUNT = 6


def test_a_run_that_is_killed_is_finished_by_a_second_one_with_every_result_right() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chaos.catalogue", "--pictures", "40"],
        cwd=ROOT,
        env={**os.environ, **FILES, "USE_FP16": "0"},
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    account = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    done_once = int(account["done by the second run"]) - int(account["copied again"])
    assert int(account["there when killed"]) + done_once == 40
    assert account["killed"] == "1"
    assert account["half written"] == account["missing"] == account["done twice"] == "0"


def _fill(images: Sequence[Picture], masks: Sequence[Picture]) -> list[Picture]:
    return [fill_mean(image, mask) for image, mask in zip(images, masks, strict=True)]


def _wanted(page: Page, fill: Fill) -> Picture:
    return inpaint(fill, [page.image], [page.mask], "mask")[0]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """As a good run leaves them, with a network that fills in the mean."""
    for number in range(COUNT):
        page = draw(number, seed=2)
        (tmp_path / page.name).parent.mkdir(exist_ok=True)
        Image.fromarray(_wanted(page, _fill)).save(tmp_path / page.name)
    return Results(tmp_path, COUNT)


def _change(path: Path, by: int, hole: bool) -> None:
    """Change a pixel of page 1's result, in the hole or outside of it."""
    picture = np.array(Image.open(path))
    row, column = np.argwhere(draw(1, seed=2).hole == hole)[0]
    picture[row, column, 0] = (int(picture[row, column, 0]) + by) % 256
    Image.fromarray(picture).save(path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("harm", "wrong"),
    [
        (_cut, "1/00001.png is half-written"),
        (Path.unlink, "1/00001.png has no result"),
        (lambda path: path.with_name("x.png").touch(), "1/x.png is no page's result"),
        (lambda path: _change(path, 1, False), "1/00001.png differs outside of its holes"),
        (lambda path: _change(path, 3, True), "1/00001.png differs by up to 3 levels"),
        (
            lambda path: Image.new("RGB", (5, 4)).save(path),
            f"1/00001.png: its result has shape (4, 5, 3), not {draw(1, 2).image.shape}",
        ),
    ],
)
def test_a_result_that_is_not_as_it_must_be_is_found(
    results: Results, harm: Callable[[Path], None], wrong: str
) -> None:
    pages = [draw(number, seed=2) for number in range(COUNT)]
    assert pages[1].hole.any()
    results.compare(pages, _fill, 1.0)
    assert results.account.wrong == []
    harm(results.folder / "1/00001.png")
    results.compare(pages, _fill, 1.0)
    assert results.account.wrong == [wrong]


def test_a_level_is_counted_and_more_of_them_than_allowed_are_found(results: Results) -> None:
    _change(results.folder / "1/00001.png", 1, True)
    pages = [draw(number, seed=2) for number in range(COUNT)]
    results.compare(pages, _fill, 1e-3)
    account = results.account
    assert (account.differing, account.pixels_differing, account.largest_difference) == (1, 1, 1)
    assert account.pixels_in_holes == sum(int(page.hole.sum()) for page in pages)
    assert account.wrong == []
    results.compare(pages, _fill, 1e-6)
    (wrong,) = account.wrong
    assert wrong.endswith("pixels differ, more than 1e-06 of them")


def test_what_the_second_run_must_not_do_is_found(results: Results) -> None:
    before = {name: file for name, file in results.files().items() if name != "5/00005.png"}
    results.check_second(before, {"done": 1, "without_hole": 0, "there": COUNT - 1, "failed": 0})
    assert results.account.wrong == []
    again = results.folder / "2/00002.png"
    content = again.read_bytes()
    again.unlink()
    again.write_bytes(content)
    (results.folder / "3/.bulk-part-x").touch()
    results.check_second(before, {"done": 1, "without_hole": 1, "there": COUNT - 2, "failed": 0})
    says, twice, part = results.account.wrong
    assert says.endswith("1 were to do")
    assert twice == "2/00002.png was done twice"
    assert part == ".bulk-part-x is left of the run that was killed"


def test_a_kill_that_was_not_half_way_or_left_half_a_file_is_found(results: Results) -> None:
    results.check_killed()
    (results.folder / "1/00001.png").unlink()
    _cut(results.folder / "2/00002.png")
    results.check_killed()
    late, half = results.account.wrong
    assert late == "6 of 6 were there: it was not killed half-way"
    assert half == "2/00002.png was half-written when it was killed"


def test_what_came_of_a_program_is_killed_though_its_parent_is_gone() -> None:
    child = "import time; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    subprocess.run([sys.executable, "-c", parent], env={**os.environ, "MARK": "test-1"}, check=True)
    assert kill_marked("MARK", "test") == 0
    assert kill_marked("MARK", "test-1") == 1
