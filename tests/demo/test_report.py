"""What the demo leaves behind."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from core.keys import Kind
from demo.jobs import Outcome
from demo.lettering import MaskStyle
from demo.metrics import Measurements, measure
from demo.report import Result, table, write_pictures, write_png, write_results, write_sheet
from demo.scenes import Scene


def scene(name: str, height: int, width: int) -> Scene:
    clean = np.full((height, width, 3), 90, np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[5:20, 5:30] = 255
    before = clean.copy()
    before[10:15, 10:25] = 255
    return Scene(name, Kind.LONG, MaskStyle.GLYPHS, clean, before, mask)


def done(name: str = "good", height: int = 300, width: int = 900) -> Result:
    known = scene(name, height, width)
    return Result(Outcome(known, 1.5, known.clean), measure(known, known.clean))


def failed(name: str = "bad") -> Result:
    return Result(Outcome(scene(name, 500, 200), 2.5, None, "refused: [why]"), None)


def test_before_mask_and_after_are_written(tmp_path: Path) -> None:
    result = done()
    write_pictures(tmp_path, result)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "good-after.png",
        "good-before.png",
        "good-mask.png",
    ]
    after = cv2.imread(str(tmp_path / "good-after.png"))
    np.testing.assert_array_equal(after, result.outcome.scene.clean)


def test_a_failed_scene_does_not_keep_the_result_of_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "bad-after.png").write_bytes(b"old")
    write_pictures(tmp_path, failed())
    assert not (tmp_path / "bad-after.png").exists()


def test_the_contact_sheet_has_a_row_per_scene(tmp_path: Path) -> None:
    one = cv2.imread(str(write_sheet(tmp_path, [done()])))
    three = cv2.imread(str(write_sheet(tmp_path, [done(), done("high", 900, 300), failed()])))
    assert one is not None
    assert three is not None
    assert three.shape[1] == one.shape[1]
    assert three.shape[0] > one.shape[0] + 2 * 400


def test_the_numbers_are_valid_json_with_null_for_an_infinite_psnr(tmp_path: Path) -> None:
    path = write_results(tmp_path, [done(), failed()], {"worker_exit_status": 0})
    numbers = json.loads(path.read_text(), parse_constant=pytest.fail)
    good, bad = numbers["scenes"]
    assert (good["picture"], good["kind"], good["mask"]) == ("good", "long", "glyphs")
    assert (good["height"], good["width"], good["seconds"]) == (300, 900, 1.5)
    assert good["psnr"] is None
    assert good["text_psnr"] == pytest.approx(10.77, abs=0.01)
    assert good["rest_identical"] is True
    assert good["problem"] == ""
    assert bad["problem"] == "bad: refused: [why]"
    assert numbers["worker_exit_status"] == 0


def test_the_table_fits_into_eighty_columns_and_names_every_scene() -> None:
    output = io.StringIO()
    numbers = Measurements(14.2, 10.1, 33.3, 0.11, 0.99, rest_identical=False)
    wide = Result(Outcome(scene("nebula", 1280, 1280), 123.4, None), numbers)
    Console(file=output, width=80).print(table([done(), wide, failed()]))
    text = output.getvalue()
    assert "1280×1280" in text
    assert "DIFF" in text
    assert "→    ∞" in text
    assert "failed" in text
    assert "…" not in text


def test_a_result_no_closer_than_the_text_is_a_problem() -> None:
    known = scene("same", 100, 100)
    result = Result(Outcome(known, 1, known.before), measure(known, known.before))
    assert "no closer" in result.problem
    assert done().problem == ""


def test_a_picture_that_cannot_be_written_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "picture.png"
    with pytest.raises(OSError, match=str(path)):
        write_png(path, np.zeros((4, 4, 3), np.uint8))
