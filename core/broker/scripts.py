"""The Lua scripts of lua/, whose keys and arguments have names.

The comment at the head of a script declares them:

    -- USES entries, lists      the functions of these files of lua/prelude, and what they declare
    -- KEYS queue, crews        keys, named as in core/keys.py
    -- KEYS result?             a key that may be None (nil in the script), and all `?` after it
    -- KEYS lists*              any number of keys, a table in the script
    -- ARGV head, length: why   arguments, strings in the script; a note may follow
    -- ARGV fields*             any number of arguments, a table in the script

In the script they are local variables of these names. A caller passes them by keyword, but for the
keys that all workers share (SHARED). So no code depends on the order of KEYS and ARGV.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoScriptError

from core import keys

LUA: Final = Path(__file__).parent / "lua"

#: Values of keys that no caller has to pass.
SHARED: Final = {
    "attempts": keys.ATTEMPTS,
    "crews": keys.CREWS,
    "dead": keys.DEAD,
    "submissions": keys.SUBMISSIONS,
}

_DECLARATION = re.compile(r"^-- (USES|KEYS|ARGV) (\w+[?*]?(?:, \w+[?*]?)*)(?=:|$)", re.MULTILINE)


class Name(NamedTuple):
    """A declared key or argument."""

    name: str
    suffix: str

    @property
    def order(self) -> int:
        """Its group among the KEYS or ARGV: what may be left out comes last."""
        return ("", "?", "*").index(self.suffix)


class Source:
    """The text of a script with its preludes, and the names that they declare."""

    def __init__(self, name: str) -> None:
        files = _with_preludes(LUA / f"{name}.lua")
        self.keys, self.arguments = _names(files, "KEYS"), _names(files, "ARGV")
        self._names = {declared.name for declared in (*self.keys, *self.arguments)}
        self._shared = {name: key for name, key in SHARED.items() if name in self._names}
        variables = _variables("KEYS", self.keys) + _variables("ARGV", self.arguments)
        self.text = "\n".join([variables, *(file.read_text() for file in files)])
        self.sha1 = keys.sha1(self.text.encode())

    def placed(self, named: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """KEYS and ARGV of a call; raises TypeError unless all declared names have a value."""
        values = {**self._shared, **named}
        if values.keys() != self._names:
            wrong = ", ".join(sorted(values.keys() ^ self._names))
            raise TypeError(f"the script declares other names than the call has: {wrong}")
        placed: tuple[list[Any], list[Any]] = [], []
        for declared, into in zip((self.keys, self.arguments), placed, strict=True):
            for name, suffix in declared:
                if suffix == "*":
                    into += values[name]
                elif suffix == "?" and values[name] is None:
                    break
                else:
                    into.append(values[name])
        return placed


def _with_preludes(file: Path) -> list[Path]:
    """The preludes of a script, each after those that it uses, and the script."""
    found: dict[Path, None] = {}
    for name, _ in _names([file], "USES"):
        found |= dict.fromkeys(_with_preludes(LUA / "prelude" / f"{name}.lua"))
    return [*found, file]


def _names(files: Sequence[Path], use: str) -> list[Name]:
    """The names that are declared for a use, in the order of their values.

    The script's own come first, then those of its preludes.
    """
    names: dict[Name, None] = {}
    for file in reversed(files):
        for used, listed in _DECLARATION.findall(file.read_text()):
            if used == use:
                names |= dict.fromkeys(_parsed(name) for name in listed.split(", "))
    return sorted(names, key=lambda name: name.order)


def _parsed(name: str) -> Name:
    plain = name.rstrip("?*")
    return Name(plain, name.removeprefix(plain))


def _variables(table: str, names: Sequence[Name]) -> str:
    """Lua that puts the values of KEYS or ARGV into local variables, on one line."""
    lines = []
    for index, (name, suffix) in enumerate(names, 1):
        if suffix == "*":
            lines.append(
                f"local {name} = {{}} for i = {index}, #{table} do "
                f"{name}[i - {index - 1}] = {table}[i] end "
            )
        else:
            lines.append(f"local {name} = {table}[{index}] ")
    return "".join(lines)


@cache
def source_of(name: str) -> Source:
    """The script lua/{name}.lua."""
    return Source(name)


class Script:
    """A script and the client that runs it."""

    def __init__(self, name: str, client: AsyncRedis | redis.Redis) -> None:
        source = source_of(name)
        self._placed, self._sha1 = source.placed, source.sha1
        self._client: Any = client
        #: The command that makes the server know the script, until it is restarted or told to
        #: forget its scripts.
        self.load: tuple[str, ...] = ("SCRIPT LOAD", source.text)

    def command(self, **named: Any) -> list[Any]:
        """The command that runs it; raises TypeError if a name is missing or unknown.

        If the server does not know the script, the error is NoScriptError, and nothing is done.
        """
        placed, arguments = self._placed(named)
        return ["EVALSHA", self._sha1, len(placed), *placed, *arguments]

    def __call__(self, **named: Any) -> Any:
        """Run it; returns its reply, or an awaitable of the reply from a client of asyncio."""
        command = self.command(**named)
        if isinstance(self._client, AsyncRedis):
            return self._run(command)
        try:
            return self._client.execute_command(*command)
        except NoScriptError:
            return self._with_load(command).execute()[-1]

    async def _run(self, command: list[Any]) -> Any:
        try:
            return await self._client.execute_command(*command)
        except NoScriptError:
            return (await self._with_load(command).execute())[-1]

    def _with_load(self, command: list[Any]) -> Any:
        """Both commands together: another client may make the server forget its scripts."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command(*self.load)
        pipeline.execute_command(*command)
        return pipeline


def load_scripts(client: AsyncRedis | redis.Redis) -> dict[str, Script]:
    """The scripts of lua/ by name, for a client."""
    return {path.stem: Script(path.stem, client) for path in LUA.glob("*.lua")}
