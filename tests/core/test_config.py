"""Settings: names, defaults and what a wrong value says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.config import Delivery, Settings, load_settings
from core.errors import SettingsError
from core.keys import Kind
from tests.core.support import without_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    without_settings(monkeypatch, tmp_path)


def test_defaults_are_those_of_the_pipelines_deployments() -> None:
    settings = load_settings()
    assert settings.redis_url == "redis://localhost:6379"
    assert settings.queue(Kind.LONG) == "lama_inference:longtasks"
    assert settings.queue(Kind.SHORT) == "lama_inference:shorttasks"
    assert settings.batch_sizes == {Kind.LONG: 4, Kind.SHORT: 4}
    assert settings.use_cuda
    assert settings.use_fp16
    assert settings.delivery is Delivery.AT_LEAST_ONCE
    assert settings.shm_name_prefix == "img_shm_"
    assert settings.shm_input_prefixes == ("img_shm_", "mask_shm_", "psm_")
    assert settings.shm_file_mode == 0o600
    assert settings.mask_threshold == 0
    assert settings.max_image_pixels == 16_777_216
    assert (settings.max_attempts, settings.retry_delay_s) == (3, 1)
    assert settings.lama_checkpoint_path.is_file()
    assert settings.lama_config_path is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("USE_CUDA", "0", False),
        ("USE_CUDA", "false", False),
        ("USE_CUDA", "true", True),
        ("USE_CUDA", "require", "require"),
        ("USE_CUDA", "Require", "require"),
        ("USE_FP16", "true", True),
        ("USE_FP16", "", True),
        ("SHM_FILE_MODE", "0660", 0o660),
        ("SHM_INPUT_PREFIXES", "a_, b_", ("a_", "b_")),
        ("SHM_ALLOWED_UIDS", "1000,0", (1000, 0)),
        ("DELIVERY", "at_most_once", Delivery.AT_MOST_ONCE),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("BATCH_MAX_WAIT_MS", "2.5", 2.5),
    ],
)
def test_values_are_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), name.lower()) == expected


def test_values_are_read_from_a_dotenv_file(tmp_path) -> None:
    (tmp_path / ".env").write_text("INPAINTING_BATCH_SIZE_LONG=2\nSOMETHING_ELSE=1\n")
    assert load_settings().inpainting_batch_size_long == 2


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t", "\ufeff", "\u00a0"])
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ADMIN_TOKEN", "secret", "secret"),
        ("REDIS_URL", "redis://:a%20b@redis:6379/0", "redis://:a%20b@redis:6379/0"),
        ("LAMA_INFERENCE_LONG_TASKS_QUEUE", "jobs", "jobs"),
        ("LAMA_CHECKPOINT_PATH", "/models/best one.ckpt", Path("/models/best one.ckpt")),
        ("USE_CUDA", "0", False),
        ("SHM_FILE_MODE", "0660", 0o660),
        ("SHM_NAME_PREFIX", "my_", "my_"),
        ("DELIVERY", "at_most_once", Delivery.AT_MOST_ONCE),
        ("INPAINT_REGION", "mask", "mask"),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("LOG_FORMAT", "json", "json"),
        ("BATCH_MAX_WAIT_MS", "2.5", 2.5),
        ("ADMIN_HOST", "0.0.0.0", "0.0.0.0"),
    ],
)
def test_white_space_at_the_ends_of_a_value_is_dropped(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object, end: str
) -> None:
    monkeypatch.setenv(name, f"{end}{value}{end}")
    assert getattr(load_settings(), name.lower()) == expected


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAMA_CHECKPOINT_PATH", "~/best.ckpt")
    monkeypatch.setenv("LAMA_CONFIG_PATH", "~no-such-user/config.yaml")
    settings = load_settings()
    assert settings.lama_checkpoint_path == tmp_path / "best.ckpt"
    assert settings.lama_config_path == Path("~no-such-user/config.yaml")


def test_a_value_of_white_space_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "\r\n")
    monkeypatch.setenv("MAX_ATTEMPTS", " ")
    (tmp_path / ".env").write_text('ADMIN_TOKEN=" mine "\nUSE_CUDA=" "\n')
    settings = load_settings()
    assert (settings.admin_token, settings.max_attempts, settings.use_cuda) == ("mine", 3, True)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_dotenv_file_of_wide_characters_is_one_sentence(tmp_path: Path, encoding: str) -> None:
    (tmp_path / ".env").write_bytes("USE_CUDA=0\nMAX_ATTEMPTS=7\n".encode(encoding))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/.env is not UTF-8 but {encoding[:6].upper()}")
    assert message.endswith("save it as UTF-8")


@pytest.mark.parametrize("encoding", ["cp949", "shift-jis", "gb18030", "cp1252", "mac-roman"])
def test_a_dotenv_file_in_a_national_encoding_is_one_sentence(
    tmp_path: Path, encoding: str
) -> None:
    text = {"cp1252": "größe", "mac-roman": "größe", "cp949": "비밀"}.get(encoding, "漢字")
    (tmp_path / ".env").write_bytes(f"USE_CUDA=0\nADMIN_TOKEN={text}\n".encode(encoding))
    with pytest.raises(SettingsError, match=r"is not UTF-8: byte .*, in line 2; save it as UTF-8"):
        load_settings()


def test_a_dotenv_file_of_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("\ufeffMAX_ATTEMPTS=7\r\nADMIN_TOKEN=a\r\n".encode())
    assert (load_settings().max_attempts, load_settings().admin_token) == (7, "a")


def test_a_dotenv_file_that_is_not_utf8_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("USE_CUDA=0\nADMIN_TOKEN=größe\n".encode("latin-1"))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == (
        f"{tmp_path}/.env is not UTF-8: byte 0xf6 at position 25, in line 2; save it as UTF-8"
    )


def test_a_dotenv_file_that_may_not_be_read_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), ".env")

    (tmp_path / ".env").touch()
    monkeypatch.setattr("dotenv.main.open", forbidden, raising=False)  # root may read everything
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{tmp_path}/.env cannot be read (Permission denied): ")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("INPAINTING_BATCH_SIZE_SHORT", "four", "it must be a whole number"),
        ("INPAINTING_BATCH_SIZE_SHORT", "0", "it must be greater than or equal to 1"),
        ("USE_CUDA", "maybe", "it must be 1 or 0, or require"),
        ("SHM_FILE_MODE", "rw", "octal"),
        ("SHM_NAME_PREFIX", "../", "letters, digits"),
        ("SHM_INPUT_PREFIXES", ",", "it must be at least 1 of them, with commas between"),
        ("ADMIN_PORT", "9" * 5000, "it must be a whole number of fewer digits"),
        ("MASK_THRESHOLD", "255", "less than or equal to 254"),
        ("REDIS_URL", "http://redis:6379", "redis://host:6379"),
        ("REDIS_URL", "redis://redis:6379o", "redis://host:6379"),
        ("REDIS_URL", "redis+sentinel://one,two:26379", "/service"),
        ("DELIVERY", "exactly_once", "at_most_once"),
        ("INPAINT_REGION", "holes", "'full', 'content' or 'mask'"),
        ("RETRY_DELAY_S", "inf", "finite"),
        ("RETRY_DELAY_S", "soon", "it must be a number"),
        ("LOG_LEVEL", "loud", "WARNING"),
    ],
)
def test_a_wrong_value_is_told_with_its_name_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert f"{name}=" in message
    assert value.split(",")[0].removesuffix(":6379o") in message
    assert allowed in message
    assert "\n" not in message


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_ATTEMPTS", "none")
    monkeypatch.setenv("USE_FP16", "half")
    with pytest.raises(SettingsError, match=r"USE_FP16=.*MAX_ATTEMPTS="):
        load_settings()


def test_settings_that_contradict_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTBEAT_TTL_S", "6")
    with pytest.raises(SettingsError, match=r"HEARTBEAT_TTL_S=6 .* HEARTBEAT_INTERVAL_S=5"):
        load_settings()
    monkeypatch.delenv("HEARTBEAT_TTL_S")
    monkeypatch.setenv("LAMA_INFERENCE_LONG_TASKS_QUEUE", "lama_inference:shorttasks")
    with pytest.raises(SettingsError, match="two different lists"):
        load_settings()


@pytest.mark.parametrize("name", ["inpainting:dead", "inpainting_result:a", "inpainting:{host}"])
@pytest.mark.parametrize("kind", ["LONG", "SHORT"])
def test_a_queue_with_the_name_of_a_key_of_the_worker_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.setenv(f"LAMA_INFERENCE_{kind}_TASKS_QUEUE", name)
    with pytest.raises(SettingsError, match=f"{kind}_TASKS_QUEUE=.* begin with inpainting"):
        load_settings()


def test_a_password_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "http://user:secret@redis")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "secret" not in str(caught.value)


def test_every_setting_says_what_it_means() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        load_settings().use_cuda = False  # type: ignore[misc]
