"""The unit of systemd."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

import pytest

from core.config import Settings
from harness import ROOT
from tests.deploy.tools import DEPLOY, run

NAME = "inpainting-worker@.service"
INSTALLED = "/opt/inpainting-worker"
UNIT = (DEPLOY / "systemd" / NAME).read_text()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit as it would be with the project where the tests are."""
    path = tmp_path / NAME
    python = f"{INSTALLED}/.venv/bin/python"
    path.write_text(UNIT.replace(python, sys.executable).replace(INSTALLED, str(ROOT)))
    return path


def test_systemd_has_nothing_to_say_about_the_unit(installed: Path) -> None:
    assert run("systemd-analyze", "verify", "--man=no", installed) == ""


def test_systemd_finds_what_is_wrong(installed: Path) -> None:
    installed.write_text(installed.read_text().replace("RestartSec=", "RestartSecs="))
    assert "RestartSecs" in run("systemd-analyze", "verify", "--man=no", installed)


def test_the_worker_stops_by_itself_before_it_is_killed() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(UNIT)
    grace_s = Settings.model_fields["shutdown_grace_s"].default
    assert float(unit["Service"]["TimeoutStopSec"]) > grace_s


def test_the_gpu_and_the_pictures_stay_reachable() -> None:
    for option in ("PrivateDevices=", "InaccessiblePaths=", "ReadOnlyPaths=", "RootDirectory="):
        assert f"\n{option}" not in UNIT


def test_the_file_of_settings_has_only_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (DEPLOY / "systemd/inpainting-worker.env").read_text().splitlines()
    pairs = [line.removeprefix("#").split("=", 1) for line in lines if "=" in line]
    assert len(pairs) > 5
    for name, value in pairs:
        assert name.lower() in Settings.model_fields
        monkeypatch.setenv(name, value)
    Settings(_env_file=None)
