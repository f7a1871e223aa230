"""The sample pictures and what is written about them."""

from __future__ import annotations

import re

import cv2
import pytest

from harness.samples import SAMPLES

PICTURES = sorted(SAMPLES.glob("*.jpg"))


def rows() -> dict[str, str]:
    """The rows of the table in samples/README.md by file."""
    text = (SAMPLES / "README.md").read_text()
    return {row[1]: row[0] for row in re.finditer(r"^\| `([^`]+)` .*$", text, re.MULTILINE)}


def test_the_samples_weigh_no_more_than_two_megabytes() -> None:
    assert PICTURES
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) <= 2_000_000


def test_the_readme_lists_exactly_the_pictures_that_are_there() -> None:
    assert sorted(rows()) == [path.name for path in PICTURES]


@pytest.mark.parametrize("name", [path.name for path in PICTURES])
def test_a_picture_has_the_size_that_the_readme_states_and_a_source_and_a_licence(
    name: str,
) -> None:
    image = cv2.imread(str(SAMPLES / name))
    assert image is not None
    _, size, source, licence = (cell.strip() for cell in rows()[name].strip("|").split("|"))
    assert size == f"{image.shape[1]} × {image.shape[0]}"
    assert "https://" in source
    assert licence
