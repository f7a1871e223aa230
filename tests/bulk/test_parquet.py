"""Pictures in Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    assert catalogue.results == {f"shop-00000{number}.jpg" for number in range(3)}
    assert (catalogue.clean / "shop-000001.jpg").read_bytes() == image["bytes"]
    assert catalogue.run(masks="").there == 3


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
