"""Folders as people have them: links, names from a Mac, files of every kind, a second run."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bulk.errors import BulkRefused
from bulk.local import Line
from bulk.report import FAILURES
from bulk.run import _alone
from bulk.storage import Folder
from tests.bulk.catalogue import Catalogue, content, mask_for, opened, photograph
from worker import main as run_command


def test_a_second_run_is_refused_on_nfs_too(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS refuses to lock what is not open for writing: a folder never is."""
    lock = fcntl.flock

    def only_files(descriptor: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", only_files)
    catalogue.put("bad.png", b"no picture", mask_for(8, 8))
    catalogue.run()
    with _alone(Folder(catalogue.clean)), pytest.raises(BulkRefused, match="another run"):
        catalogue.run()
    assert catalogue.failures == {"bad.png": "undecodable"}


def test_linked_folders_are_entered_once(catalogue: Catalogue) -> None:
    catalogue.add("a/1.png")
    elsewhere = catalogue.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "2.png").write_bytes(content(photograph(96, 120, 2)))
    for name, target in {
        "linked": elsewhere,
        "0": catalogue.pages / "a",
        "a/up": catalogue.pages,
    }.items():
        (catalogue.pages / name).symlink_to(target)
    (elsewhere / "back").symlink_to(catalogue.pages)
    (elsewhere / "again").symlink_to(elsewhere)
    linked = catalogue.root / "linked-masks"
    linked.mkdir()
    (linked / "2.png").write_bytes(content(mask_for(96, 120)))
    (catalogue.masks / "linked").symlink_to(linked)
    assert catalogue.run().done == 2
    assert catalogue.results == {"a/1.png", "linked/2.png"}


@pytest.mark.parametrize("target", ["clean", ".", "masks", "clean/below"])
def test_a_link_to_results_or_masks_is_refused_by_name(catalogue: Catalogue, target: str) -> None:
    catalogue.add("1.png")
    (catalogue.clean / "below").mkdir(parents=True)
    (catalogue.pages / "link").symlink_to(catalogue.root / target)
    with pytest.raises(BulkRefused, match="the link link in INPUT leads to"):
        catalogue.run()


@pytest.mark.parametrize(("picture", "other"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("name", ["신발/가격.png", "Größe/été.png"])
def test_names_match_however_their_letters_are_composed(
    catalogue: Catalogue, tmp_path: Path, name: str, picture: Any, other: Any
) -> None:
    own = unicodedata.normalize(picture, name)
    catalogue.put(own, content(photograph(64, 80)))
    mask = catalogue.masks / unicodedata.normalize(other, name)
    mask.parent.mkdir()
    mask.write_bytes(content(mask_for(64, 80)))
    assert catalogue.run().done == 1
    assert catalogue.results == {own}
    (catalogue.clean / own).unlink()
    boxes = tmp_path / "boxes.jsonl"
    line = {"image": unicodedata.normalize(other, name), "boxes": [[9, 9, 20, 9, 20, 20]]}
    boxes.write_text(json.dumps(line))
    assert catalogue.run(masks="", boxes=str(boxes)).done == 1
    assert catalogue.results == {own}


def test_a_picture_takes_the_mask_of_exactly_its_name_first(catalogue: Catalogue) -> None:
    composed, decomposed = (unicodedata.normalize(form, "가.png") for form in ("NFC", "NFD"))
    for name, seed in ((composed, 1), (decomposed, 2)):
        catalogue.add(name, seed=seed)
    assert catalogue.run().done == 2
    assert catalogue.results == {composed, decomposed}


def test_a_run_in_which_no_picture_had_a_hole_says_so(catalogue: Catalogue, capfd: Any) -> None:
    for number in range(2):
        catalogue.put(f"{number}.png", content(photograph(40, 56)), np.zeros((40, 56), np.uint8))
    counts = catalogue.run()
    assert (counts.done, counts.without_hole) == (0, 2)
    assert counts.nothing_erased
    said = capfd.readouterr().err
    assert "0 done, 2 without a hole, " in said
    assert "nothing was erased: no picture had a hole" in said


@pytest.mark.parametrize("form", ["", "WEBP"])
def test_a_picture_without_a_hole_is_done_again_when_its_mask_is_corrected(
    catalogue: Catalogue, form: str
) -> None:
    catalogue.add("other.png")
    catalogue.put("a/1.png", content(photograph(40, 56)), np.zeros((40, 56), np.uint8))
    first = catalogue.run(form=form)
    assert (first.done, first.without_hole) == (1, 1)
    again = catalogue.run(form=form)
    assert (again.done, again.without_hole, again.there) == (0, 1, 1)
    assert not again.nothing_erased
    (catalogue.masks / "a/1.png").write_bytes(content(mask_for(40, 56)))
    corrected = catalogue.run(form=form)
    assert (corrected.done, corrected.without_hole, corrected.there) == (1, 0, 1)
    name = "a/1.webp" if form else "a/1.png"
    assert (np.array(opened(catalogue.clean / name)) != photograph(40, 56)).any()
    assert catalogue.run(form=form).there == 2


def test_an_empty_file_is_no_result(catalogue: Catalogue) -> None:
    catalogue.add("1.png")
    catalogue.clean.mkdir()
    (catalogue.clean / "1.png").touch()
    counts = catalogue.run()
    assert (counts.done, counts.there) == (1, 0)
    catalogue.check("1.png")


def test_a_mask_that_cannot_be_one_is_named(catalogue: Catalogue) -> None:
    for name in ("layers.png", "folder.png", "stem.jpg", "none.png", "damaged.png"):
        catalogue.put(name, content(photograph(40, 56)))
    (catalogue.masks / "damaged.gif").write_bytes(b"GIF")
    (catalogue.masks / "layers.psd").write_bytes(b"8BPS")
    for name in ("folder.png", "stem.png"):
        (catalogue.masks / name).mkdir()
    catalogue.run()
    lines = (catalogue.clean / FAILURES).read_text().splitlines()
    said = {entry["image"]: entry["error"] for entry in map(json.loads, lines)}
    assert said == {
        "layers.png": "its mask layers.psd is not a PNG, JPEG, WebP, AVIF, BMP, GIF, TIFF, PPM or "
        "TGA file: save it as PNG",
        "folder.png": "its mask folder.png is a folder, must be a file",
        "stem.jpg": "its mask stem.png is a folder, must be a file",
        "none.png": "there is no mask with its name",
        "damaged.png": "its mask damaged.gif: it is not a picture, or its header is damaged: must "
        "be PNG, JPEG, WebP, AVIF, BMP, GIF, TIFF, PPM or TGA",
    }


@pytest.mark.parametrize("place", ["source", "output", "masks", "boxes"])
@pytest.mark.parametrize("name", ["loop", "x" * 300, "x\0y", "~nobody-of-this-name/pages"])
def test_a_place_that_cannot_be_is_refused_by_its_name(
    catalogue: Catalogue, place: str, name: str
) -> None:
    catalogue.add("a.png")
    (catalogue.root / "loop").symlink_to(catalogue.root / "loop")
    where = name if name.startswith("~") else str(catalogue.root / name)
    places: dict[str, Any] = {place: where}
    if place == "boxes":
        places["masks"] = ""
    option = {"source": "INPUT", "output": "OUTPUT"}.get(place, f"--{place}")
    with pytest.raises(BulkRefused, match=f"{option}"):
        catalogue.run(**places)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["", "clean"], "INPUT is empty"),
        (["pages", ""], "OUTPUT is empty"),
        (["file://", "clean"], "INPUT is empty"),
        (["pages", "clean", "--masks", ""], "--masks is empty"),
        (["pages", "clean", "--boxes", ""], "--boxes is empty"),
        (["pages", "clean", "--masks", "masks", "--workers", "0"], "--workers is 0"),
        (["pages", "clean", "--masks", "masks", "--workers", "2"], "--workers is 2"),
        (["empty", "clean", "--masks", "masks"], "there are no pictures in empty"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
    arguments: list[str],
    said: str,
) -> None:
    catalogue.add("a.png")
    (catalogue.root / "empty").mkdir()
    monkeypatch.chdir(catalogue.root)
    assert run_command(["bulk", *arguments]) == 1
    assert said in capfd.readouterr().err
    assert not catalogue.clean.exists()


def test_a_run_that_is_interrupted_says_what_is_left(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    for number in range(3):
        catalogue.add(f"{number}.png")

    def interrupted(self: Line, tasks: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Line, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        catalogue.run()
    assert "interrupted, 3 left: start the same command again" in capfd.readouterr().err


def test_a_folder_of_everything_ends_with_a_table(catalogue: Catalogue, capfd: Any) -> None:
    page, mask = photograph(40, 56), mask_for(40, 56)
    catalogue.put("good.jfif", content(page, "JPEG"), mask)
    catalogue.put("deep.png", _deep(page), mask)
    for form in ("AVIF", "TIFF", "BMP"):
        catalogue.put(f"a.{form.lower()}", content(page, form))
        (catalogue.masks / f"a.{form.lower()}.png").write_bytes(content(mask))
    catalogue.put("cut.jpg", content(page, "JPEG")[:-2], mask)
    catalogue.put("plain.png", content(page), mask & 0)
    catalogue.put("inverted.png", content(page), ~mask)
    catalogue.put("old.gif", content(page, "GIF"), mask)
    catalogue.put("phone.heic", b"heic", mask)
    catalogue.put("notes.txt", b"text")
    counts = catalogue.run()
    assert (counts.done, counts.without_hole, counts.failed) == (7, 1, 3)
    assert catalogue.failures == dict.fromkeys(
        ("old.gif", "phone.heic", "notes.txt"), "not_a_picture"
    )
    said = capfd.readouterr().err
    for row in (
        r"failed +3 +not_a_picture +notes.txt: it is not a JPEG, PNG, WebP, AVIF, TIFF or BMP file",
        r"note +1 +mostly_hole +inverted.png: 9\d% of it is a hole: is its mask inverted\?",
        r"note +1 +no_hole +plain.png: it has no hole, so nothing is erased",
        r"note +1 +truncated +cut.jpg: the end of the file is missing",
    ):
        assert re.search(row, said)
    assert "7 done, 1 without a hole, 0 there already, 3 failed (3 not_a_picture" in said
    text = (catalogue.clean / FAILURES).read_text()
    assert "GIF is not supported, because it has only 256 colours: save it as PNG" in text
    assert opened(catalogue.clean / "good.jfif").format == "JPEG"


def _deep(page: np.ndarray) -> bytes:
    return cv2.imencode(".png", page.astype(np.uint16) * 257)[1].tobytes()
