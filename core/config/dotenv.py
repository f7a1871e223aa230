"""What is lost of a `.env`, line by line, and variables that look like misspelt settings."""

from __future__ import annotations

import difflib
import io
import os
import re
import stat
from collections.abc import Iterator, Set
from typing import Final, NamedTuple

from dotenv.parser import Binding, parse_stream

from core.config.environment import DOTENV, set_variables
from core.config.settings import Settings
from core.errors import SettingsError

#: Similarity, from 0 to 1, from which a variable's name counts as a misspelt setting.
_CLOSE: Final = 0.85

#: A name at the start of a line, as shells, YAML and .env files have it, and what follows it.
_NAME: Final = re.compile(
    r"""[\s"'-]*(?:(?:export|set|setenv)\s+|\$env:)?["']?(\w+)["']?\s*(=|:|\s|$)""", re.IGNORECASE
)

_KNOWN: Final = frozenset(name.upper() for name in Settings.model_fields)


class Doubt(NamedTuple):
    """Something that may be wrong with the variables or with `.env`, and what to do about it."""

    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}"


def check_lines() -> None:
    """Raise SettingsError if the value of a setting in `.env` is lost.

    The text names each line and its variable, but no value. Raises OSError or UnicodeDecodeError if
    the file cannot be read.
    """
    # What the environment sets is not taken from here.
    searched = _KNOWN - {name.upper() for name in set_variables()}
    lost = [text for binding in _bindings() for text in _lost(binding, searched)]
    if lost:
        raise SettingsError("; ".join(f"{DOTENV.absolute()}, {text}" for text in lost))


def doubts() -> Iterator[Doubt]:
    """What does not keep a worker from starting; after `check_lines`."""
    given = set_variables()
    names = dict.fromkeys(sorted(os.environ), "")
    if (what := _no_file()) is not None:
        yield Doubt(
            f"{DOTENV.absolute()} is {what}, so that no settings are read from it",
            "put a file there, or remove it; Docker makes a folder where the file to mount is "
            "missing",
        )
    for binding in _bindings():
        line = _first_line(binding)
        if binding.error:
            yield Doubt(
                f"{DOTENV.absolute()}, line {line} cannot be read and has no effect",
                "write NAME=value, with a quote at both ends of the value or at none, or begin "
                "the line with #",
            )
        elif binding.key and binding.value:
            names[binding.key] = f" in {DOTENV.absolute()}, line {line},"
            given.add(binding.key)
    taken = {name.upper() for name in given} & _KNOWN
    for name, place in names.items():
        if meant := _meant(name.upper(), taken):
            yield Doubt(f"{name}{place} is no setting and has no effect", f"is {meant} meant?")


def _bindings() -> list[Binding]:
    if not DOTENV.is_file():
        return []
    return list(parse_stream(io.StringIO(DOTENV.read_bytes().decode("utf-8"))))


def _no_file() -> str | None:
    """What there is in place of the file; None for nothing, a file and what is meant to be none."""
    try:
        mode = DOTENV.stat().st_mode
    except OSError:
        return "a link that leads to no file" if DOTENV.is_symlink() else None
    if stat.S_ISDIR(mode) and not os.path.exists(DOTENV / "pyvenv.cfg"):
        return "a folder"
    return "a socket" if stat.S_ISSOCK(mode) else None


def _lines(binding: Binding) -> list[str]:
    return re.split(r"\r\n|\n|\r", binding.original.string)


def _first_line(binding: Binding) -> int:
    """The number of the line on which the binding begins, after empty ones."""
    blank = next((index for index, text in enumerate(_lines(binding)) if text.strip()), 0)
    return binding.original.line + blank


def _lost(binding: Binding, searched: Set[str]) -> Iterator[str]:
    """A text for each of the settings that stands in these lines and gets no value from them."""
    first = _first_line(binding)
    is_read = binding.value is not None
    for number, text in enumerate(_lines(binding), binding.original.line):
        match = None if text.lstrip().startswith("#") else _NAME.match(text)
        if match is None or match[1].upper() not in searched:
            continue
        if number > first and match[2] == "=":
            yield (
                f"line {number}: {match[1]} is inside the quotes that are opened in line {first}: "
                "close them there"
            )
        elif number == first and not (is_read and binding.key == match[1]):
            yield (
                f"line {number}: the value of {match[1]} cannot be read: write {match[1].upper()}="
                "value, with a quote at both ends of the value or at none"
            )


def _meant(name: str, taken: set[str]) -> str | None:
    """The setting of which this is a misspelling; None for the names of other programs."""
    if name in _KNOWN:
        return None
    for close in difflib.get_close_matches(name, sorted(_KNOWN), 1, _CLOSE):
        # DB_LOG_LEVEL is another program's; so is REDIS_URI beside REDIS_URL.
        is_part = name.endswith(f"_{close}") or name.startswith(f"{close}_")
        return None if is_part or close in taken else close
    return None
