"""Folders in, folders out."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bulk.errors import BulkRefused
from bulk.local import Budget
from bulk.report import FAILURES
from bulk.run import Request, _alone, estimate
from bulk.storage import Folder
from core.errors import WorkerError
from core.pictures.errors import PictureError
from harness.waiting import PATIENCE_S
from lama.inpainter import Inpainter
from tests.bulk.catalogue import (
    Catalogue,
    assert_same,
    content,
    expected,
    mask_for,
    opened,
    photograph,
    settings,
)
from worker import main as run_command


def test_every_picture_is_what_batch_inference_makes_of_its_windows(catalogue: Catalogue) -> None:
    names = [f"{'ab'[n % 2]}/{n}.{('png', 'webp')[n % 2]}" for n in range(6)]
    for number, name in enumerate(names):
        catalogue.add(name, (90 + 7 * number, 120 + 5 * number), number)
    counts = catalogue.run()
    assert (counts.done, counts.failed) == (6, 0)
    assert catalogue.results == set(names)
    for name in names:
        catalogue.check(name)


@pytest.mark.parametrize("is_set", [True, False])
def test_no_config_is_needed(
    catalogue: Catalogue, caplog: pytest.LogCaptureFixture, is_set: bool
) -> None:
    catalogue.add("a.png", (90, 120), 1)
    config = catalogue.clean.parent / "absent.yaml" if is_set else None
    counts = catalogue.run({"lama_config_path": config})
    assert (counts.done, counts.failed) == (1, 0)
    catalogue.check("a.png")
    assert (f"there is no config file {config}" in caplog.text) == is_set


def test_whole_pictures_are_shown_where_the_region_says_so(catalogue: Catalogue) -> None:
    for number in range(3):
        catalogue.add(f"{number}.png", (64, 90 + number), number)
    catalogue.run({"inpaint_region": "full"})
    for number in range(3):
        size = (64, 90 + number)
        wanted = expected(photograph(*size, number), mask_for(*size), "full")
        after = np.array(opened(catalogue.clean / f"{number}.png"))
        assert_same(after, wanted, mask_for(*size))


def test_a_second_run_does_only_what_is_missing(catalogue: Catalogue) -> None:
    for number in range(3):
        catalogue.add(f"{number}.png", seed=number)
    catalogue.run()
    before = {name: (catalogue.clean / name).stat().st_mtime_ns for name in catalogue.results}
    (catalogue.clean / "1.png").unlink()
    counts = catalogue.run()
    assert (counts.done, counts.there) == (1, 2)
    after = {name: (catalogue.clean / name).stat().st_mtime_ns for name in catalogue.results}
    assert {name for name in before if after[name] != before[name]} == {"1.png"}


def test_a_picture_without_a_hole_is_copied_byte_for_byte(catalogue: Catalogue) -> None:
    file = content(photograph(40, 56), "JPEG", quality=71)
    catalogue.put("plain.jpg", file, np.zeros((40, 56), np.uint8))
    catalogue.run()
    assert (catalogue.clean / "plain.jpg").read_bytes() == file


def test_one_bad_picture_does_not_keep_the_others_from_being_done(catalogue: Catalogue) -> None:
    catalogue.add("good.png")
    catalogue.put("damaged.png", content(photograph(64, 64))[:400], mask_for(64, 64))
    catalogue.put("lie.jpg", b"this is text", mask_for(64, 64))
    catalogue.put("maskless.png", content(photograph(64, 64)))
    catalogue.put("other-size.png", content(photograph(64, 64)), mask_for(64, 65))
    catalogue.put("bomb.png", content(np.zeros((300, 300), np.uint8)), mask_for(300, 300))
    catalogue.put("notes.txt", b"notes")
    catalogue.put("bad-mask.png", content(photograph(64, 64)), mask_for(64, 64))
    (catalogue.masks / "bad-mask.png").write_bytes(b"no mask")
    (catalogue.pages / ".hidden.png").write_bytes(b"a system's own")
    os.mkfifo(catalogue.pages / "pipe.png")
    (catalogue.masks / "pipe.png").write_bytes(content(mask_for(64, 64)))
    counts = catalogue.run({"max_image_pixels": 200 * 200})
    assert catalogue.results == {"good.png"}
    assert catalogue.failures == {
        "damaged.png": "undecodable",
        "lie.jpg": "undecodable",
        "maskless.png": "no_mask",
        "other-size.png": "mask_size",
        "bomb.png": "too_large",
        "notes.txt": "not_a_picture",
        "bad-mask.png": "mask_undecodable",
        "pipe.png": "unreadable",
    }
    assert (counts.done, counts.failed) == (1, 8)


def test_a_picture_that_the_network_fails_at_costs_no_other(
    catalogue: Catalogue, monkeypatch: Any
) -> None:
    sizes = {"good.png": (64, 72), "large.png": (64, 71), "odd.png": (64, 70), "too.png": (64, 69)}
    for name, size in sizes.items():
        catalogue.add(name, size)
    infer = Inpainter.infer

    def failing(self: Inpainter, images: Any, masks: Any) -> Any:
        shapes = {image.shape[1] for image in images}
        if 71 in shapes:
            raise MemoryError("no memory")
        if 70 in shapes:
            raise RuntimeError("it is odd")
        return infer(self, images, masks)

    monkeypatch.setattr(Inpainter, "infer", failing)
    counts = catalogue.run({"inpaint_region": "full"})
    assert (counts.done, counts.failed) == (2, 2)
    assert catalogue.failures == {"large.png": "out_of_memory", "odd.png": "inference_failed"}
    said = (catalogue.clean / FAILURES).read_text(encoding="utf-8")
    assert json.dumps("a picture of 71×64 pixels does not fit into memory: no memory") in said
    assert catalogue.results == {"good.png", "too.png"}


def test_a_result_that_cannot_be_written_is_named_and_leaves_nothing(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.add("a/blocked.png")
    catalogue.add("b.png", (64, 80))
    catalogue.add("full.png", (72, 80))
    catalogue.clean.mkdir()
    (catalogue.clean / "a").write_text("a file where a folder is needed")
    replace = Path.replace

    def no_room(self: Path, target: Any) -> Any:
        if str(target).endswith("full.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", no_room)
    catalogue.run()
    assert catalogue.failures == {"a/blocked.png": "unwritable", "full.png": "no_room"}
    assert catalogue.results == {"a", "b.png"}


def test_results_of_one_name_do_not_replace_each_other(catalogue: Catalogue) -> None:
    catalogue.add("same.png")
    catalogue.put("same.jpg", content(photograph(96, 120), "JPEG"), mask_for(96, 120))
    catalogue.run(form="WEBP")
    assert catalogue.results == {"same.webp"}
    assert catalogue.failures == {"same.png": "same_result"}


def test_one_mask_serves_all_pictures_of_its_size(catalogue: Catalogue, tmp_path: Path) -> None:
    for name, size in (("a.png", (64, 80)), ("b.png", (64, 80)), ("c.png", (80, 64))):
        catalogue.put(name, content(photograph(*size)))
    mask = tmp_path / "watermark.bmp"
    mask.write_bytes(content(mask_for(64, 80), "BMP"))
    catalogue.run(masks=str(mask))
    assert catalogue.results == {"a.png", "b.png"}
    assert catalogue.failures == {"c.png": "mask_size"}


def test_boxes_are_holes_of_what_is_seen(catalogue: Catalogue, tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6  # stored 64×80, seen 80×64
    image = photograph(64, 80)
    catalogue.put("turned.png", content(image, exif=tags.tobytes()))
    catalogue.put("none.png", content(image))
    boxes = tmp_path / "boxes.jsonl"
    quads = [[[10, 30], [19, 30], [19, 49], [10, 49]]]
    boxes.write_text(json.dumps({"image": "turned.png", "boxes": quads}) + "\n\n")
    catalogue.run(masks="", boxes=str(boxes))
    after = np.array(opened(catalogue.clean / "turned.png"))
    changed = (after != image).any(axis=2)
    rows, columns = np.nonzero(changed)
    # Turned by 90 degrees: x of what is seen counts from the bottom of what is stored.
    assert 64 - 21 <= rows.min() <= rows.max() < 64 - 8
    assert 29 <= columns.min() <= columns.max() <= 50
    assert catalogue.failures == {"none.png": "no_mask"}


@pytest.mark.parametrize("line", ["{", '{"image": 3, "boxes": []}', '{"image": "a", "boxes": 1}'])
def test_a_line_of_boxes_that_is_none_is_refused_at_the_start(
    catalogue: Catalogue, tmp_path: Path, line: str
) -> None:
    catalogue.add("a.png")
    boxes = tmp_path / "boxes.jsonl"
    boxes.write_text(f'{{"image": "b", "boxes": []}}\n{line}\n')
    with pytest.raises(BulkRefused, match="line 2"):
        catalogue.run(masks="", boxes=str(boxes))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"output": "pages"}, "OUTPUT"),
        ({"output": "pages/clean"}, "OUTPUT.*is inside INPUT"),
        ({"source": "clean/pages", "output": "clean"}, "INPUT.*is inside OUTPUT"),
        ({"masks": "pages/masks"}, "--masks.*is inside INPUT"),
        ({"source": "nowhere"}, "INPUT: there is no"),
        ({"masks": "nowhere"}, "--masks: there is no"),
        ({"output": "file"}, "OUTPUT.*is a file"),
        ({"source": "sftpx://host/pages"}, "cannot be used"),
        ({"masks": ""}, "--masks or --boxes is needed"),
    ],
)
def test_what_could_do_harm_is_refused_at_the_start(
    catalogue: Catalogue, request_: dict[str, str], said: str
) -> None:
    catalogue.add("a.png")
    (catalogue.root / "file").touch()
    places: dict[str, Any] = {
        key: value if "://" in value or not value else str(catalogue.root / value)
        for key, value in request_.items()
    }
    before = sorted(catalogue.root.rglob("*"))
    with pytest.raises(WorkerError, match=said):
        catalogue.run(**places)
    assert sorted(catalogue.root.rglob("*")) == before


def test_a_second_run_at_the_same_time_is_refused_and_leaves_the_first_ones_failures(
    catalogue: Catalogue,
) -> None:
    catalogue.put("bad.png", b"no picture", mask_for(8, 8))
    catalogue.run()
    before = catalogue.failures
    assert before == {"bad.png": "undecodable"}
    with _alone(Folder(catalogue.clean)), pytest.raises(BulkRefused, match="another run"):
        catalogue.run()
    assert catalogue.failures == before


def test_an_output_that_cannot_be_made_is_refused(catalogue: Catalogue) -> None:
    catalogue.add("a.png")
    (catalogue.root / "file").touch()
    with pytest.raises(BulkRefused, match=r"OUTPUT cannot be written to: .*Not a directory"):
        catalogue.run(output=str(catalogue.root / "file" / "clean"))


def test_a_dry_run_writes_nothing(catalogue: Catalogue) -> None:
    for number in range(3):
        catalogue.add(f"{number}.png", seed=number)
    found = estimate(
        Request(str(catalogue.pages), str(catalogue.clean), str(catalogue.masks)), settings()
    )
    assert (found["todo"], found["sample"], found["sample_failed"]) == (3, 3, 0)
    assert found["bytes"] > 1000
    assert not catalogue.clean.exists()


def test_files_may_be_anywhere_that_fsspec_reaches(catalogue: Catalogue) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    catalogue.add("a/b.png")
    memory = fsspec.filesystem("memory")
    memory.put(str(catalogue.pages), "/shop/pages", recursive=True)
    try:
        counts = catalogue.run(source="memory://shop/pages", output="memory://shop/clean")
        assert counts.done == 1
        catalogue.clean.joinpath("a").mkdir(parents=True)
        (catalogue.clean / "a/b.png").write_bytes(memory.cat_file("/shop/clean/a/b.png"))
        catalogue.check("a/b.png")
        again = catalogue.run(source="memory://shop/pages", output="memory://shop/clean")
        assert (again.done, again.there) == (0, 1)
        memory.pipe_file("/shop/clean/a/b.png", b"")
        assert catalogue.run(source="memory://shop/pages", output="memory://shop/clean").done == 1
    finally:
        memory.rm("/shop", recursive=True)


def test_a_picture_without_a_hole_is_done_again_in_an_object_store_too(
    catalogue: Catalogue,
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    catalogue.put("a/b.png", content(photograph(40, 56)), np.zeros((40, 56), np.uint8))
    try:
        first = catalogue.run(output="memory://shop/clean")
        assert (first.without_hole, first.there) == (1, 0)
        (catalogue.masks / "a/b.png").write_bytes(content(mask_for(40, 56)))
        second = catalogue.run(output="memory://shop/clean")
        assert (second.done, second.there) == (1, 0)
        third = catalogue.run(output="memory://shop/clean")
        assert (third.done, third.there) == (0, 1)
    finally:
        fsspec.filesystem("memory").rm("/shop", recursive=True)


def test_a_budget_lets_the_largest_picture_through_alone() -> None:
    budget = Budget(100)
    budget.take(1000)
    budget.give_back(1000)
    budget.take(60)
    budget.take(40)
    budget.give_back(60)
    budget.take(60)


def test_a_budget_holds_back_what_does_not_fit_until_there_is_room_or_the_run_ends() -> None:
    budget = Budget(100)
    budget.take(60)
    with ThreadPoolExecutor(2) as threads, closing(budget):
        second, third = threads.submit(budget.take, 60), threads.submit(budget.take, 70)
        with pytest.raises(TimeoutError):
            second.result(0.1)
        budget.give_back(60)
        wait([second, third], PATIENCE_S, FIRST_COMPLETED)
        assert second.done() != third.done()
        budget.close()
        with pytest.raises(PictureError, match="the run was stopped"):
            (third if second.done() else second).result(PATIENCE_S)


def test_large_holes_are_refined_where_that_is_asked_for(catalogue: Catalogue) -> None:
    size = 768, 832
    hole = np.zeros(size, np.uint8)
    hole[300:440, 300:470] = 255
    for folder, array in ((catalogue.pages, photograph(*size)), (catalogue.masks, hole)):
        folder.mkdir(exist_ok=True)
        (folder / "large.png").write_bytes(content(array))
    catalogue.run()
    normal = np.array(opened(catalogue.clean / "large.png"))
    (catalogue.clean / "large.png").unlink()
    catalogue.run({"refine": True})
    refined = np.array(opened(catalogue.clean / "large.png"))
    assert (refined != normal)[hole > 0].any()
    assert np.array_equal(refined[hole == 0], normal[hole == 0])


def test_the_flag_refines_as_the_setting_does(catalogue: Catalogue, monkeypatch: Any) -> None:
    asked: list[bool] = []

    def note(request: Request, settings: Any) -> dict[str, Any]:
        asked.append(settings.refine)
        return {"refused": {}}

    monkeypatch.setattr("bulk.run.estimate", note)
    places = [str(catalogue.pages), str(catalogue.clean), "--dry-run"]
    for flags in ([], ["--refine"]):
        assert run_command(["bulk", *places, *flags]) == 0
    assert asked == [False, True]
