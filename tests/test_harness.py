"""Who may import whom among the programs around the worker."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import ROOT


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def importers(package: str, *folders: str) -> set[str]:
    """The files below some folders that import a package."""
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if any(f"{name}.".startswith(f"{package}.") for name in imported(path))
    }


def test_the_demo_is_imported_by_nobody_but_its_own_tests() -> None:
    found = importers("demo", "core", "lama", "bulk", "harness", "chaos", "benchmarks", "tests")
    assert {path for path in found if not path.startswith("tests/demo/")} == set()


@pytest.mark.parametrize("package", ["tests", "chaos", "benchmarks", "demo"])
def test_the_harness_imports_none_of_those_that_build_on_it(package: str) -> None:
    assert importers(package, "harness") == set()


def test_the_oracle_knows_nothing_of_the_worker() -> None:
    packages = {name.partition(".")[0] for name in imported(ROOT / "harness/wire.py")}
    assert not packages & {"core", "lama", "bulk", "harness"}


def test_no_file_imports_a_conftest() -> None:
    files = (ROOT / "tests").rglob("*.py")
    assert not [path for path in files if any(".conftest" in name for name in imported(path))]
