"""`doctor model` knows the published files, and the docs list the same ones."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from core.commands.checks import model, published
from core.commands.checks.published import INCLUDED_SHA256, PUBLISHED, Published
from core.config import Settings
from harness import ROOT

DIGESTS = [file.sha256 for file in PUBLISHED if file.sha256]


def told(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the check says of a checkpoint, before it is loaded."""
    monkeypatch.delenv("LAMA_CONFIG_PATH", raising=False)
    return next(iter(model.check(Settings(lama_checkpoint_path=path)))).message


def test_the_docs_have_the_same_table() -> None:
    page = (ROOT / "docs/weights.md").read_text()
    table = page.partition("### Published files")[2].partition("\n[")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    in_docs = [(row[0].strip("`"), row[1], row[-1]) for row in rows]
    assert in_docs == [
        (file.name, str(file.size or "not known"), file.sha256 or "not known") for file in PUBLISHED
    ]
    assert {"yes", "no"} >= {re.split("[:,]", row[4])[0] for row in rows}
    commanded = re.search(r"echo (\w+) (\S+) \| sha256sum -c", page)
    assert commanded
    assert (commanded[2], commanded[1]) in {(file.name, file.sha256) for file in PUBLISHED}


def test_the_digests_are_digests_of_different_files() -> None:
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in DIGESTS)
    assert len({*DIGESTS, INCLUDED_SHA256}) == len(DIGESTS) + 1


def test_the_included_weights_are_known_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    message = told(ROOT / "lama-fourier/models/best.ckpt", monkeypatch)
    assert message.endswith(f"sha256 {INCLUDED_SHA256} (the weights that are included)")


def test_a_published_file_is_known_by_its_content_and_not_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.ckpt"
    path.write_bytes(bytes(3 << 20))  # more than is read at once
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert "its origin is not known" in told(path, monkeypatch)
    files = (*PUBLISHED, Published("big.ckpt", "the big one", digest))
    monkeypatch.setattr(published, "PUBLISHED", files)
    message = told(path, monkeypatch)
    assert message == f"{path}: 3 MB, sha256 {digest} (published as big.ckpt: the big one)"
