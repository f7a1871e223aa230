"""The documents beside the README: the API's, the changes, the licence."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
from pathlib import Path

import pdoc
import pytest

import bulk
import core
import lama
from harness import ROOT


@pytest.mark.timeout(300)  # it imports everything there is
def test_the_apis_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pdoc.pdoc("bulk", "core", "lama", output_directory=tmp_path)  # warnings are errors
    for page, told in {
        "core/config": "REDIS_URL",
        "core/broker/queues": "Jobs in Redis",
        "lama/bin/inference": "batch_inference",
    }.items():
        assert told.lower() in (tmp_path / f"{page}.html").read_text().lower(), page


def test_run_docs_documents_the_same() -> None:
    assert re.search(r"-W error -m pdoc .*bulk core lama -o", (ROOT / "run").read_text())
    told = subprocess.run([ROOT / "run"], capture_output=True, text=True)
    assert "./run docs" in told.stderr


def test_every_module_says_what_it_is() -> None:
    for package in (bulk, core, lama):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            empty = not Path(module.__file__ or "").read_text().strip()
            assert module.__doc__ or empty, f"{found.name} has no docstring"


def test_the_changes_begin_with_this_version() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == core.__version__


def test_what_others_wrote_comes_with_its_licence() -> None:
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert "MIT" in (ROOT / "core/admin/static/uPlot.LICENSE.txt").read_text()
    licences = (ROOT / "samples/LICENSES.md").read_text() + (ROOT / "samples/README.md").read_text()
    for picture in (ROOT / "samples").glob("*.jpg"):
        assert picture.name in licences
