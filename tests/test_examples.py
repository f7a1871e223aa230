"""Every message that a page shows is a job that a worker does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.client import prepare, suitable_kind
from core.config import Settings
from core.contract import CANVAS, parse_job
from core.keys import Kind
from harness import ROOT
from harness.wire import Pipeline
from harness.workers import StartWorker

PAGES = [
    *(ROOT / "README.md", ROOT / "README.ko.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "deploy/README.md",
]


def blocks(path: Path) -> list[dict[str, Any]]:
    """The JSON of a page."""
    found = re.findall(r"^ *```json\n(.*?)^ *```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [json.loads(text) for text in found]


EXAMPLES = [
    pytest.param(block, id=f"{path.name}-{block['request_id']}")
    for path in PAGES
    for block in blocks(path)
    if "preprocessed_img_shm_info" in block
]


def test_the_pages_have_examples() -> None:
    names = [str(example.id) for example in EXAMPLES]
    assert len([name for name in names if name.startswith("contract.md")]) == 2
    assert {name.partition("-")[0] for name in names} >= {"README.md", "README.ko.md"}


@pytest.mark.parametrize("message", EXAMPLES)
def test_an_example_is_done(
    start_worker: StartWorker, pipeline: Pipeline, message: dict[str, Any]
) -> None:
    worker = start_worker()
    rng = np.random.default_rng(0)
    put = {}
    for field, info in message.items():
        if field.endswith("_shm_info"):
            array = rng.integers(0, 256, info["shape"]).astype(info["dtype"])
            # An earlier run that was killed may have left it: the names are those of the page.
            (Path("/dev/shm") / info["shm_name"]).unlink(missing_ok=True)
            put[field] = pipeline.put_array(array, name=info["shm_name"])
    assert put == {field: message[field] for field in put}
    assert len(put) >= 2
    pipeline.push(message, "long" if message["is_long"] else "short")
    result = pipeline.result(message["request_id"])
    assert result["status"] == "done"
    assert result["inpaint_shm_info"]["shape"] == [*message["original_size"], 3]
    assert "WARNING" not in worker.output
    (Path("/dev/shm") / result["inpaint_shm_info"]["shm_name"]).unlink()


def test_kinds_are_described_as_they_are_chosen() -> None:
    page = (ROOT / "docs/contract.md").read_text()
    for kind in Kind:
        height, width = CANVAS[kind]
        assert f"| `{kind}` | {width}×{height} |" in page
    for height, width, kind in (
        (361, 1280, Kind.LONG),
        (3000, 860, Kind.SHORT),
        (400, 600, Kind.LONG),
        (1100, 1200, Kind.SHORT),
        (1100, 1310, Kind.LONG),
    ):
        assert suitable_kind(height, width) is kind
        if max(height, width) > 1024:
            assert (width / height > 1.19) == (kind is Kind.LONG)


def test_the_letterboxed_example_is_what_a_client_would_send() -> None:
    (letterboxed,) = [
        example for example in blocks(ROOT / "docs/contract.md") if "original_shm_info" in example
    ]
    job = parse_job(json.dumps(letterboxed).encode(), Settings(_env_file=None).wire_format)
    page = np.zeros((*job.original_size, 3), np.uint8)
    prepared = prepare(page, page[..., 0], suitable_kind(*job.original_size))
    assert prepared.padding == job.padding
    assert prepared.image.shape == job.image.shape
