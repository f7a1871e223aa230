"""Pictures in Parquet files."""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bulk import parquet
from bulk.on_ray import blocks
from bulk.parquet import Reader, Row
from bulk.report import FAILURES
from bulk.stages import WITHOUT_HOLE
from bulk.storage import Folder
from bulk.tasks import Task
from tests.bulk.catalogue import (
    Catalogue,
    assert_same,
    content,
    expected,
    mask_for,
    opened,
    photograph,
)

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

SIZE = (64, 80)
BOX = [[10.0, 20.0], [29.0, 20.0], [29.0, 29.0], [10.0, 29.0]]


def write(path: Path, columns: dict[str, list[Any]], group: int = 2) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=group)


def test_rows_with_masks_are_done_under_their_names(catalogue: Catalogue) -> None:
    images = [photograph(*SIZE, seed) for seed in range(5)]
    columns: dict[str, Any] = {
        "name": [f"x/{number}.png" for number in range(5)],
        "image": [content(image) for image in images],
        "mask": [content(mask_for(*SIZE))] * 5,
    }
    write(catalogue.root / "pages.parquet", columns)
    counts = catalogue.run(source=str(catalogue.root / "pages.parquet"), masks="")
    assert counts.done == 5
    for number, image in enumerate(images):
        after = np.array(opened(catalogue.clean / f"x/{number}.png"))
        assert_same(after, expected(image, mask_for(*SIZE)), mask_for(*SIZE))


def test_rows_without_names_are_numbered_and_found_again(catalogue: Catalogue) -> None:
    image: dict[str, Any] = {"bytes": content(photograph(*SIZE), "JPEG"), "path": None}
    columns: dict[str, Any] = {"image": [image] * 3, "boxes": [[BOX], [], [BOX]]}
    write(catalogue.pages / "shop.parquet", columns)
    counts = catalogue.run(masks="")
    assert (counts.done, counts.without_hole) == (2, 1)
    names = {f"shop-00000{number}.jpg" for number in range(3)}
    assert catalogue.results == {*names, f"{WITHOUT_HOLE}/shop-000001.jpg"}
    assert (catalogue.clean / "shop-000001.jpg").read_bytes() == image["bytes"]
    again = catalogue.run(masks="")
    assert (again.there, again.without_hole) == (2, 1)


def test_bad_rows_and_files_are_named(catalogue: Catalogue) -> None:
    good = content(photograph(*SIZE))
    columns: dict[str, Any] = {
        "name": ["../out.png", "null.png", "bad.png", "maskless.png", "good.png"],
        "image": [good, None, b"no", good, good],
        "mask": [content(mask_for(*SIZE))] * 3 + [None, content(mask_for(*SIZE))],
    }
    write(catalogue.pages / "shop.parquet", columns)
    write(catalogue.pages / "other.parquet", {"picture": [good]})
    (catalogue.pages / "loose.png").write_bytes(good)
    (catalogue.pages / "broken.parquet").write_bytes(b"PAR1 no PAR1")
    catalogue.run(masks="")
    assert catalogue.results == {"good.png"}
    assert catalogue.failures == {
        "../out.png": "bad_name",
        "null.png": "undecodable",
        "bad.png": "undecodable",
        "maskless.png": "no_mask",
        "other.parquet": "undecodable",
        "broken.parquet": "undecodable",
        "loose.png": "no_mask",
    }


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([7, 12], ["7", "12"]),
        ([b"a.png", "é.png".encode()], ["a.png", "é.png"]),
        ([7.0, 12.0], ["7", "12"]),
        (pa.array(["a.png", "b.png"]).dictionary_encode(), ["a.png", "b.png"]),
        ([None, ""], ["shop-000000", "shop-000001"]),
    ],
)
def test_a_name_may_be_a_number_or_bytes(
    catalogue: Catalogue, names: Any, wanted: list[str]
) -> None:
    images = [content(photograph(*SIZE, seed)) for seed in range(2)]
    columns = {"name": names, "image": images, "boxes": [[BOX]] * 2}
    write(catalogue.pages / "shop.parquet", columns)
    assert catalogue.run(masks="").done == 2
    assert {name.removesuffix(".png") for name in catalogue.results} == {
        name.removesuffix(".png") for name in wanted
    }
    assert catalogue.run(masks="").there == 2


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", [1], 1.5, True, pytest.param(float("nan"), id="not a number")]
)
def test_a_name_that_is_none_fails_its_row_only(catalogue: Catalogue, name: Any) -> None:
    good = content(photograph(*SIZE))
    write(catalogue.pages / "shop.parquet", {"name": [name], "image": [good], "boxes": [[BOX]]})
    catalogue.add("other.png")
    assert catalogue.run().done == 1
    assert catalogue.failures == {"shop-000000": "bad_name"}


@pytest.mark.parametrize("column", ["name", "image", "boxes"])
def test_a_damaged_row_group_fails_its_rows_only(catalogue: Catalogue, column: str) -> None:
    import pyarrow.parquet

    count = 6
    columns: dict[str, list[Any]] = {
        "name": [f"{number}.png" for number in range(count)],
        "image": [content(photograph(*SIZE, seed)) for seed in range(count)],
        "boxes": [[BOX]] * count,
    }
    path = catalogue.pages / "shop.parquet"
    write(path, columns)
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(1)
    chunks = [group.column(number) for number in range(group.num_columns)]
    (chunk,) = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == column]
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    file = bytearray(path.read_bytes())
    file[begin : begin + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(file)
    assert catalogue.run(masks="").done == 4
    assert catalogue.results == {f"{number}.png" for number in (0, 1, 4, 5)}
    named = {"shop-000002", "shop-000003"} if column == "name" else {"2.png", "3.png"}
    assert catalogue.failures == dict.fromkeys(named, "undecodable")


class _Counting(io.BufferedReader):
    """A file that counts the bytes that are read from it."""

    total = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        _Counting.total += len(data)
        return data


@pytest.mark.parametrize("blocks_alone", [False, True])
def test_a_large_row_group_is_read_once_and_never_all_in_memory(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, blocks_alone: bool
) -> None:
    import pyarrow.parquet

    count, length = 200, 50_000
    random = np.random.default_rng(0)
    path = catalogue.root / "large.parquet"
    table = pa.table({"image": [random.bytes(length) for _ in range(count)]})
    # Pages of a few pictures, in a single group.
    pyarrow.parquet.write_table(
        table, path, row_group_size=count, data_page_size=4 * length, write_batch_size=4
    )
    images = table.column("image").to_pylist()
    del table

    opened_files = ExitStack()

    def counted(store: object, name: str) -> Any:
        file = opened_files.enter_context(_Counting(io.FileIO(path)))
        return pyarrow.parquet.ParquetFile(file, buffer_size=1 << 16)

    monkeypatch.setattr(parquet, "_open", counted)
    monkeypatch.setattr(_Counting, "total", 0)
    store = Folder(catalogue.root)
    tasks = [Task(str(index), str(index), Row("large.parquet", 0, index)) for index in range(count)]
    # Each block of Ray may be decoded in another process, with a reader of its own.
    parts = blocks(tasks, 4) if blocks_alone else [tasks]
    before, peak = pa.total_allocated_bytes(), 0
    with opened_files:
        for part in parts:
            reader = Reader(store)
            for task in part:
                assert task.row is not None
                assert reader(task.row)["image"] == images[task.row.index]
                peak = max(peak, pa.total_allocated_bytes() - before)
    assert _Counting.total < 1.2 * count * length
    assert peak < 0.3 * count * length


@pytest.mark.parametrize("name", [".", "..", "/", "./.", "/a.png", ".a.png", ".b/a.png", "a/../b"])
@pytest.mark.parametrize("form", ["", "WEBP"])
def test_a_name_that_is_no_file_in_output_fails_its_row_only(
    catalogue: Catalogue, name: str, form: str
) -> None:
    good = content(photograph(*SIZE))
    columns: dict[str, list[Any]] = {
        "name": [name, "good.png"],
        "image": [good] * 2,
        "boxes": [[BOX]] * 2,
    }
    write(catalogue.pages / "shop.parquet", columns)
    assert catalogue.run(masks="", form=form).done == 1
    assert list(catalogue.failures.values()) == ["bad_name"]


def test_a_rows_own_mask_or_boxes_come_before_those_of_the_command(catalogue: Catalogue) -> None:
    image = photograph(*SIZE)
    names = ["own.png", "boxed.png", "folder.png", "none.png"]
    own = np.zeros(SIZE, np.uint8)
    own[40:50, 50:70] = 255
    write(
        catalogue.pages / "shop.parquet",
        {
            "name": names,
            "image": [content(image)] * 4,
            "mask": [content(own), None, None, None],
            "boxes": [None, [[[50, 40], [69, 40], [69, 49], [50, 49]]], None, None],
        },
    )
    for name in names[:3]:
        (catalogue.masks / name).write_bytes(content(mask_for(*SIZE)))
    assert catalogue.run().done == 3
    for name, hole in (("own.png", own), ("boxed.png", own), ("folder.png", mask_for(*SIZE))):
        changed = (np.array(opened(catalogue.clean / name)) != image).any(axis=2)
        assert changed[hole > 0].mean() > 0.5
        assert not changed[(cv2.dilate(hole, np.ones((3, 3), np.uint8))) == 0].any()
    assert catalogue.failures == {"none.png": "no_mask"}
    assert "there is no mask with its name" in (catalogue.clean / FAILURES).read_text()


def test_rows_that_change_places_are_found(catalogue: Catalogue) -> None:
    write(catalogue.root / "a.parquet", {"image": [bytes([number]) for number in range(40)]}, 20)
    reader = Reader(Folder(catalogue.root))
    for number in (1, 0, 9, 5, 8, 30, 2, 39, 20):
        assert reader(Row("a.parquet", number // 20, number % 20))["image"] == bytes([number])


def test_a_block_is_a_row_group_or_a_few_files() -> None:
    files = [Task(str(number), str(number)) for number in range(6)]
    rows = [Task(f"r{n}", f"r{n}", Row("a", n // 5, n % 5)) for n in range(10)]
    made = [[task.name for task in block] for block in blocks([*files, *rows], 4)]
    assert made == [
        ["0", "1", "2", "3"],
        ["4", "5"],
        [f"r{n}" for n in range(5)],
        [f"r{n}" for n in range(5, 10)],
    ]
    assert all(len(block) == 1 for block in blocks([*files, *rows], 1))
