"""Where settings come from: the environment and the file `.env`."""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from core.errors import SettingsError

#: Read only if it is a file; a folder of this name may be a virtual environment.
DOTENV: Final = Path(".env")

_ENCODINGS: Final = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def trimmed(value: str) -> str:
    """A value without white space and byte order marks at its ends.

    They come from files: a Kubernetes secret that was made from one often ends in a line break.
    """
    return value.strip(" \t\r\n\v\f\u00a0\ufeff")


def trimmed_variables(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Variables without white space at the ends of their values, and without the empty ones."""
    return {name: trimmed(value) for name, value in variables.items() if value and trimmed(value)}


def set_variables() -> set[str]:
    """The names of the environment's variables that are not empty."""
    return {name for name, value in os.environ.items() if trimmed(value)}


def check_dotenv() -> None:
    """Raise SettingsError if `.env` is a pipe, or in an encoding that hides its names."""
    if DOTENV.is_fifo():
        raise SettingsError(
            f"{DOTENV.absolute()} is a named pipe, which could be waited for without end: put a "
            "file there, or remove it"
        )
    if DOTENV.is_file():
        content = DOTENV.read_bytes()
        if any(content.startswith(mark) for mark in _ENCODINGS) or b"\0" in content:
            raise SettingsError(_wrong_encoding(content))


def not_utf8(error: UnicodeDecodeError) -> SettingsError:
    """The error for a `.env` that could not be decoded."""
    line = error.object[: error.start].count(b"\n") + 1
    return SettingsError(
        f"{DOTENV.absolute()} is not UTF-8: byte 0x{error.object[error.start]:02x} at position "
        f"{error.start}, in line {line}; save it as UTF-8"
    )


def _wrong_encoding(content: bytes) -> str:
    marks = [name for mark, name in _ENCODINGS.items() if content.startswith(mark)]
    what = marks[0] if marks else "UTF-16, or no text: it has a zero byte"
    return f"{DOTENV.absolute()} is not UTF-8 but {what}; save it as UTF-8"
