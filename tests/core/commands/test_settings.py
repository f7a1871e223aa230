"""`python worker.py settings`: what it prints, and what it never prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.config import Settings
from tests.core.support import without_settings
from worker import main

SECRET = "s3cret-passw0rd"


@pytest.fixture(autouse=True)
def _only_these_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_settings(monkeypatch, tmp_path)
    monkeypatch.setenv(
        "REDIS_URL", f"redis+sentinel://me:{SECRET}@a:1/s?sentinel_password={SECRET}"
    )
    (tmp_path / ".env").write_text(f"ADMIN_TOKEN={SECRET}\nRESULT_TTL_S=31000000\n")


@pytest.mark.parametrize("arguments", [["settings"], ["settings", "--json"]])
def test_no_password_is_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err


def test_values_say_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--json"]) == 0
    rows = {row["setting"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    assert rows["REDIS_URL"]["value"].startswith("redis+sentinel://***@a:1/s")
    assert rows["REDIS_URL"]["source"] == "environment"
    assert rows["ADMIN_TOKEN"]["value"] == "(set)"
    assert rows["ADMIN_TOKEN"]["source"] == ".env"
    assert rows["RESULT_TTL_S"]["value"] == "31000000"
    assert rows["RESULT_TTL_S"]["default"] == "86400"
    assert rows["MAX_ATTEMPTS"]["source"] == "default"


def test_the_page_does_not_depend_on_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert SECRET not in printed
    assert "| `RESULT_TTL_S` | `86400` |" in printed
