"""The programs that know the schemas of what is under deploy/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import ROOT

DEPLOY = ROOT / "deploy"

#: Where a missing tool can be found.
ORIGINS = {
    "promtool": "Debian's package prometheus has it",
    "kubectl": "it renders what kustomize is made of",
    "systemd-analyze": "it comes with systemd",
    "hadolint": "its wheel is for Linux on x86-64 only",
    "check-jsonschema": "./run installs it",
}


def run(tool: str, *arguments: object, status: int = 0, **options: Any) -> str:
    """What a tool prints; the test is skipped without the tool, and fails if it complains."""
    beside = Path(sys.executable).with_name(tool)
    path = str(beside) if beside.exists() else shutil.which(tool)
    if path is None:
        pytest.skip(f"there is no {tool}: {ORIGINS[tool]}")
    done = subprocess.run(
        [path, *map(str, arguments)], capture_output=True, text=True, timeout=50, **options
    )
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    return said


def load(path: str) -> Any:
    """A YAML file under deploy/."""
    return yaml.safe_load((DEPLOY / path).read_text())


def documents(text: str) -> list[Any]:
    """All documents of a YAML stream."""
    return list(yaml.safe_load_all(text))
