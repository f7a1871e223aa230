"""The tests that need a CUDA device: a part, and the pytest plugin that selects them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from benchmarks.gpu.scale import Row, Scale
from harness import ROOT

#: Of the marks that skip them elsewhere.
REASON: Final = "there is no CUDA device"

FOLDER: Final = "tests/lama"


def run(_: Scale) -> Iterator[Row]:
    """The failures and the summary, as pytest prints them."""
    command = [sys.executable, "-m", "pytest", "-p", __name__, "-q", "--tb=line", FOLDER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        for line in map(str.strip, process.stdout):
            if line.startswith(("FAILED", "ERROR", "SKIPPED", "E ", "/")):
                yield {"text": line}
            last = line or last
    yield {"summary": last, "status": process.returncode}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the tests that need a CUDA device."""
    chosen = [item for item in items if needs_cuda(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def needs_cuda(item: pytest.Item) -> bool:
    """Whether it is skipped without one, or is about the device `cuda`."""
    reasons = [mark.kwargs.get("reason") for mark in item.iter_markers("skipif")]
    arguments = getattr(item, "callspec", None)
    values = [] if arguments is None else list(arguments.params.values())
    return REASON in reasons or any(isinstance(one, str) and one == "cuda" for one in values)
