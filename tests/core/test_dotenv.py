"""`.env`: what is lost of it is an error, what looks wrong in it a warning; both say where."""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path

import pytest

from core.commands import run
from core.config import Settings, doubts, load_settings
from core.errors import SettingsError
from tests.core.support import command, without_settings

SECRET = "s3cret-passw0rd"


@pytest.fixture(autouse=True)
def dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    without_settings(monkeypatch, tmp_path)
    return tmp_path / ".env"


LOST = [
    (f'REDIS_URL="redis://:{SECRET}@h:1\n', 1),
    (f"A=1\nREDIS_URL='redis://:{SECRET}@h:1\nMAX_ATTEMPTS=2\n", 2),
    (f'REDIS_URL="redis://:{SECRET}@h:1" more\n', 1),
    (f"# REDIS_URL=a\n\nREDIS_URL: redis://:{SECRET}@h:1\n", 3),
    (f"REDIS_URL:redis://:{SECRET}@h:1?db=1\r\n", 1),
    (f"REDIS_URL redis://:{SECRET}@h:1", 1),
    (f"set REDIS_URL=redis://:{SECRET}@h:1", 1),
    (f'$env:REDIS_URL = "redis://:{SECRET}@h:1"', 1),
    (f'"REDIS_URL"="redis://:{SECRET}@h:1"', 1),
    (f"- REDIS_URL=redis://:{SECRET}@h:1", 1),
    ("\n\nREDIS_URL\n", 3),
    ("export REDIS_URL\n", 1),
    ("redis_url\n", 1),
]


@pytest.mark.parametrize(("content", "line"), LOST)
def test_a_line_that_loses_a_setting_is_an_error_with_its_number(
    dotenv: Path, content: str, line: int, capfd: pytest.CaptureFixture[str]
) -> None:
    dotenv.write_bytes(content.encode())
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.lower().startswith(
        f"{dotenv}, line {line}: the value of redis_url cannot be read: ".lower()
    )
    assert "write REDIS_URL=value, with a quote at both ends" in message
    assert SECRET not in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("end", ['B=1"\n', 'B="\n', 'B="1"\n'])
def test_a_setting_inside_the_quotes_of_another_variable_is_an_error(
    dotenv: Path, end: str
) -> None:
    dotenv.write_text(f'\nA="1\nMAX_ATTEMPTS=7\nREDIS_URL=redis://:{SECRET}@h\n{end}')
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for line, name in ((3, "MAX_ATTEMPTS"), (4, "REDIS_URL")):
        said = f"{dotenv}, line {line}: {name} is inside the quotes that are opened in line 2: "
        assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_what_the_environment_sets_is_not_lost(
    dotenv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv.write_text('REDIS_URL="redis://h1\nMAX_ATTEMPTS\nRETRY_DELAY_S=7\n')
    monkeypatch.setenv("REDIS_URL", "redis://h2")
    monkeypatch.setenv("MAX_ATTEMPTS", "5")
    settings = load_settings()
    found = settings.redis_url, settings.max_attempts, settings.retry_delay_s
    assert found == ("redis://h2", 5, 7)


def test_a_good_file_raises_no_doubt(dotenv: Path) -> None:
    dotenv.write_text(
        "# REDIS_URL=redis://old\n\nexport REDIS_URL = 'redis://h' # here\nmax_attempts=7\n"
        'CERTIFICATE="-----\nMIIB\n-----"\nRESULT_QUEUE=\nFLAG\n'
    )
    settings = load_settings()
    assert (settings.redis_url, settings.max_attempts) == ("redis://h", 7)
    assert list(doubts()) == []


def test_lines_of_other_programs_that_cannot_be_read_are_doubtful(dotenv: Path) -> None:
    dotenv.write_text("\nother: 1\nMAX_ATTEMPTS=7\nwhat is this\n")
    assert load_settings().max_attempts == 7
    messages = [doubt.message for doubt in doubts()]
    assert messages == [
        f"{dotenv}, line {line} cannot be read and has no effect" for line in (2, 4)
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MASK_TRESHOLD", "MASK_THRESHOLD"),
        ("REDIS_ULR", "REDIS_URL"),
        ("LAMA_CHECKPOINT", "LAMA_CHECKPOINT_PATH"),
        ("use_cudа", "USE_CUDA"),  # the last letter is Cyrillic
        ("LOG-LEVEL", "LOG_LEVEL"),
        ("DB_LOG_LEVEL", None),
        ("MY_REDIS_URL", None),
        ("ADMIN_PORT_2", None),
        ("POSTGRES_URL", None),
        ("COMPOSE_PROJECT_NAME", None),
    ],
)
def test_a_name_that_looks_misspelt_is_named_and_other_programs_names_are_not(
    dotenv: Path, name: str, meant: str | None
) -> None:
    dotenv.write_text(f"A=1\n{name}=7\n")
    load_settings()
    found = [tuple(doubt) for doubt in doubts()]
    message = f"{name} in {dotenv}, line 2, is no setting and has no effect"
    assert found == ([(message, f"is {meant} meant?")] if meant else [])


def test_a_name_close_to_a_setting_that_is_set_is_another_programs(
    dotenv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv.write_text("REDIS_URI=redis://theirs\n")
    assert [doubt.remedy for doubt in doubts()] == ["is REDIS_URL meant?"]
    dotenv.write_text("REDIS_URI=redis://theirs\nREDIS_URL=redis://ours\n")
    assert list(doubts()) == []
    dotenv.write_text("REDIS_URI=redis://theirs\n")
    monkeypatch.setenv("REDIS_URL", "redis://ours")
    assert list(doubts()) == []


def test_a_pipe_is_refused_and_not_waited_for(dotenv: Path) -> None:
    os.mkfifo(dotenv)
    with pytest.raises(SettingsError, match=r"/\.env is a named pipe.*: put a file there"):
        load_settings()


@pytest.mark.parametrize("kind", ["a folder", "a link that leads to no file"])
def test_what_is_in_place_of_the_file_is_doubtful(dotenv: Path, kind: str) -> None:
    if kind == "a folder":
        dotenv.mkdir()
    else:
        dotenv.symlink_to(".env")
    assert load_settings().redis_url == "redis://localhost:6379"
    (doubt,) = doubts()
    assert doubt.message == f"{dotenv} is {kind}, so that no settings are read from it"
    assert "Docker makes a folder" in doubt.remedy


def test_a_virtual_environment_of_that_name_is_none(dotenv: Path) -> None:
    dotenv.mkdir()
    (dotenv / "pyvenv.cfg").touch()
    assert load_settings().redis_url == "redis://localhost:6379"
    assert list(doubts()) == []


def test_doctor_and_settings_say_it(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.telemetry.configure_logging", lambda level, form: None)
    dotenv.write_text("MASK_TRESHOLD=7\n")
    said = f"MASK_TRESHOLD in {dotenv}, line 1, is no setting and has no effect"
    done = command("settings", "--json")
    assert done.stderr == f"worker.py: {said}: is MASK_THRESHOLD meant?\n"
    assert len(json.loads(done.stdout)) == len(Settings.model_fields)
    (_, finding) = json.loads(command("doctor", "settings", "--json").stdout)
    assert (finding["level"], finding["message"]) == ("warning", said)
    assert finding["remedy"] == "is MASK_THRESHOLD meant?"
    dotenv.write_text("REDIS_URL\n")
    for words in (["settings"], ["doctor", "settings"], ["run"]):
        done = command(*words)
        assert done.returncode == 1
        assert f"{dotenv}, line 1: the value of REDIS_URL cannot be read" in (
            done.stdout + done.stderr
        )


def test_a_worker_says_it_when_it_starts(
    dotenv: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dotenv.write_text("MASK_TRESHOLD=7\nother: 1\n")
    monkeypatch.setattr("core.telemetry.configure_logging", lambda level, form: None)
    monkeypatch.setattr("core.flow.service.serve", lambda settings, network: 0)
    with caplog.at_level(logging.WARNING):
        assert run.command(argparse.Namespace()) == 0
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said[0].startswith(f"{dotenv}, line 2 cannot be read and has no effect: write NAME=")
    assert said[1].endswith(" is no setting and has no effect: is MASK_THRESHOLD meant?")
