"""Lua scripts get their keys and arguments by name."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest
import redis

from core import keys
from core.broker import scripts
from core.broker.connection import async_client
from core.broker.scripts import LUA, Script, Source, load_scripts
from harness.redis_server import RedisClient, RedisServer

TEXTS = sorted(LUA.rglob("*.lua"))


@pytest.fixture
def lua(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scripts, in place of the worker's."""
    (tmp_path / "prelude").mkdir()
    monkeypatch.setattr(scripts, "LUA", tmp_path)
    monkeypatch.setattr(scripts, "source_of", Source)  # which keeps none of them
    return tmp_path


def test_values_reach_the_names_that_a_script_and_its_preludes_declare(
    lua: Path, client: RedisClient
) -> None:
    (lua / "prelude/deep.lua").write_text(
        "-- KEYS last?\n-- ARGV deep\nlocal function at_depth() return {last, deep} end\n"
    )
    (lua / "prelude/shallow.lua").write_text(
        "-- USES deep\n-- KEYS queue, middle?: may be None\n"
        "local function all() return {queue, middle, at_depth()} end\n"
    )
    (lua / "one.lua").write_text(
        "-- USES shallow, deep\n-- ARGV words*, first\n-- KEYS crews, queue\n"
        "return {crews, first, words, all()}\n"
    )
    script = Script("one", client)
    reply = script(queue="q", middle="m", last="l", deep="d", first="f", words=["a", "b"])
    crews = keys.CREWS.encode()
    assert reply == [crews, b"f", [b"a", b"b"], [b"q", b"m", [b"l", b"d"]]]
    assert script(queue="q", middle="m", last=None, deep="", first="f", words=[])[3] == [
        b"q",
        b"m",
        [],
    ]


def test_names_that_a_script_does_not_declare_or_does_not_get_are_errors(
    lua: Path, client: RedisClient
) -> None:
    (lua / "one.lua").write_text("-- KEYS queue, other?\n-- ARGV count\nreturn 1\n")
    script = Script("one", client)
    assert script(queue="q", other=None, count=1) == 1
    with pytest.raises(TypeError, match="count"):
        script(queue="q", other=None)
    with pytest.raises(TypeError, match="kount"):
        script(queue="q", other=None, count=1, kount=1)
    with pytest.raises(TypeError, match="other"):
        script(queue="q", count=1)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_a_script_reads_every_name_that_it_declares_and_no_position(path: Path) -> None:
    text = path.read_text()
    code = re.sub(r"--.*", "", text)
    assert not re.search(r"\b(KEYS|ARGV)\b", code)
    declared = re.findall(r"^-- (?:KEYS|ARGV) ([^:\n]+)", text, re.MULTILINE)
    names = [name.strip("?* ") for line in declared for name in line.split(",")]
    assert len(names) == len(set(names))
    used = code if path.stem != "rights" else f"{code} result_queue"  # Redis checks the right to it
    assert [name for name in names if not re.search(rf"\b{name}\b", used)] == []


@pytest.mark.parametrize("name", sorted(path.stem for path in LUA.glob("*.lua")))
def test_no_variable_of_a_script_has_the_name_of_one_of_its_keys_or_arguments(name: str) -> None:
    script = Source(name)
    declared = {one.name for one in (*script.keys, *script.arguments)}
    _, code = re.sub(r"--.*", "", script.text).split("\n", 1)
    bound = re.findall(r"(?:\blocal (?!function)|\bfor |function \w+\()((?:\w+(?:, )?)+)", code)
    names = {name for listed in bound for name in re.findall(r"\w+", listed)}
    assert names & declared == set()


def test_a_script_runs_while_another_client_makes_the_server_forget_its_scripts(
    lua: Path, client: RedisClient, server: RedisServer
) -> None:
    (lua / "one.lua").write_text("-- ARGV word\nreturn word\n")
    (lua / "two.lua").write_text("-- ARGV word\nreturn word\n")
    done = threading.Event()

    def forget() -> None:
        with redis.Redis(port=server.port, protocol=2) as other:
            while not done.is_set():
                other.script_flush()

    async def run() -> list[bytes]:
        connection = async_client(server.url)
        try:
            script = Script("two", connection)
            return [await script(word=number) for number in range(300)]
        finally:
            await connection.aclose()

    thread = threading.Thread(target=forget)
    thread.start()
    try:
        script = Script("one", client)
        numbers = [b"%d" % number for number in range(300)]
        assert [script(word=number) for number in range(300)] == numbers
        assert asyncio.run(run()) == numbers
    finally:
        done.set()
        thread.join()


def test_redis_compiles_every_script(client: RedisClient) -> None:
    loaded = load_scripts(client)
    assert set(loaded) == {path.stem for path in LUA.glob("*.lua")}
    for name in loaded:
        assert client.script_load(scripts.source_of(name).text)
