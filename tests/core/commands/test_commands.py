"""`python worker.py COMMAND`, as it is typed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, cast

import cv2
import pytest

from harness import ROOT
from harness.admin import PORT
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import Pipeline, page
from harness.workers import StartWorker, segments
from tests.core.support import Run, command, printed

EVERY = (
    *("run", "status", "dead list", "dead show", "dead retry", "dead discard"),
    *("submit", "health", "doctor"),
)


@pytest.mark.parametrize("words", EVERY)
def test_help_explains_json_and_has_examples(words: str) -> None:
    done = command(*words.split(), "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
    examples = done.stdout.partition("examples:\n")[2].splitlines()
    assert all("python worker.py " in line for line in examples)
    assert any(f"python worker.py {words}" in line for line in examples)


def test_a_package_that_is_missing_is_named_with_the_ways_to_install_it() -> None:
    words = [sys.executable, "-S", str(ROOT / "worker.py"), "status"]  # -S: without site-packages
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert re.fullmatch(r"worker.py: the package \w+ is not installed. .*\n", done.stderr)
    assert "./run python worker.py" in done.stderr
    assert "pip install -r base_requirements.txt" in done.stderr


def test_a_package_that_only_one_command_needs_is_named_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "core.client.files", None)
    for name in ("cv2", "core.client", "core.client.client"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "core.client.files", raising=False)
    done = command("submit", "a.png", "b.png")
    assert done.returncode == 1
    assert done.stderr.startswith("worker.py: the package cv2 is not installed.")


def test_status_shows_queues_and_workers(
    run: Run, start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, make_hold: Any
) -> None:
    hold = make_hold()
    beat = {"HEARTBEAT_INTERVAL_S": 0.2, "HEARTBEAT_TTL_S": 5}
    start_worker(STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1, ADMIN_PORT=PORT, **beat)
    for _ in range(4):
        pipeline.submit(*page(60, 90, 1), "long", canvas=(64, 96))
    wait_until(lambda: client.llen(pipeline.queues["long"]) == 2, "two wait and two are in hand")
    client.rpush("inpainting:dead", "{}")
    told = printed(run("status", "--json"))
    assert told["backlog"] == {"long": 2, "short": 0}
    assert told["processing"] == 2
    assert told["dead"] == 1
    (worker,) = told["workers"]
    assert worker["here"]
    assert worker["model"] == "a stub"
    text = run("status").stdout
    assert re.search(r"waiting, long +2 +lama_inference:longtasks", text)
    assert re.search(r"dead +1 +see: python worker.py dead list", text)
    assert worker["worker"] in text
    hold.unlink()
    wait_until(lambda: printed(run("status", "--json"))["workers"][0]["done"] == 4, "4 are done")
    assert printed(run("status", "--json"))["per_minute"] == 4
    for key in client.keys("inpainting_result:*"):
        pipeline.fetch(key.decode().partition(":")[2])


def test_status_without_a_worker_says_so(run: Run, client: RedisClient) -> None:
    assert "no worker is alive on this Redis" in run("status").stdout


@pytest.mark.parametrize("beat", ["", "no JSON", "[]", "{}", "[" * 100_000, '{"host": 1e999}'])
def test_status_leaves_out_a_heartbeat_that_is_none(
    run: Run, client: RedisClient, beat: str
) -> None:
    client.set("inpainting:worker:some-1-0123456789ab", beat)
    assert "no worker is alive on this Redis" in run("status").stdout


def watch_status(server: RedisServer, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "worker.py"), "status", "--watch", "0.1", *options],
        env={**os.environ, "REDIS_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_status_watches_until_ctrl_c(server: RedisServer, client: RedisClient) -> None:
    watching = watch_status(server, "--json")
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    client.rpush("lama_inference:longtasks", "x")
    for line in watching.stdout:
        if json.loads(line)["backlog"]["long"] == 1:
            break
    assert first["backlog"]["long"] == 0
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=20)
    assert watching.returncode == 0


@pytest.mark.parametrize(
    ("options", "shown"), [(["--json"], r'{"at": .*'), ([], "no worker is alive on this Redis")]
)
def test_status_watches_on_when_redis_has_been_away(options: list[str], shown: str) -> None:
    with RedisServer() as own:
        watching = watch_status(own, *options)
        lines = cast("IO[str]", watching.stdout)

        def until(wanted: str) -> list[str]:
            read = [lines.readline()]
            while not re.fullmatch(wanted, read[-1].rstrip()):
                read.append(lines.readline())
                assert read[-1], read
            return read

        until(shown)
        own.stop()
        until(r".*redis at redis://\S* cannot be used: .*")
        own.start()
        said = until(shown)
        assert not [line for line in said if "cannot be used" in line]
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=20)
        assert watching.returncode == 0


@pytest.mark.parametrize("words", ["status", "dead list", "dead retry --all"])
def test_without_redis_a_command_ends_with_one_line(words: str) -> None:
    done = command(*words.split(), "--json", REDIS_URL="redis://:secret@127.0.0.1:9")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "redis at redis://***@127.0.0.1:9 cannot be used" in line
    assert json.loads(done.stdout)["error"] in line
    assert "secret" not in done.stderr + done.stdout


def test_submit_tells_programs_what_it_did(
    run: Run, start_worker: StartWorker, pipeline: Pipeline, tmp_path: Path
) -> None:
    start_worker()
    image, mask = page(120, 200, 4)
    cv2.imwrite(str(tmp_path / "page.png"), image)
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    told = printed(
        run(
            "submit",
            tmp_path / "page.png",
            tmp_path / "mask.png",
            "-o",
            tmp_path / "o.png",
            "--kind",
            "short",
            "--json",
        )
    )
    assert told["kind"] == "short"
    assert 0 < told["seconds"] < 50
    result = cv2.imread(told["output"])
    assert result is not None
    assert result.shape == image.shape
    wait_until(lambda: not segments(), "the result's segment is gone")


@pytest.mark.parametrize(
    ("image", "output", "said"),
    [
        ("none.png", "o.png", "none.png is not a file"),
        ("page.png", "none/o.png", "none is not a folder or not writable"),
        ("page.png", "o.xyz", "such as .png, .jpg or .webp"),
    ],
)
def test_submit_refuses_files_before_it_sends_anything(
    run: Run, client: RedisClient, capfd: Any, tmp_path: Path, image: str, output: str, said: str
) -> None:
    cv2.imwrite(str(tmp_path / "page.png"), page(60, 90, 1)[0])
    done = run("submit", tmp_path / image, tmp_path / "page.png", "-o", tmp_path / output)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert capfd.readouterr().err == ""  # OpenCV has a voice of its own
    assert not client.keys("lama_inference:*")


def test_a_missing_shared_memory_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.identity.SHM_FOLDER", "/nowhere/shm")
    done = run("health", ADMIN_PORT=0)
    assert done.returncode == 1
    assert done.stderr.startswith("worker.py: /nowhere/shm cannot be used (No such file")
    assert done.stderr.count("\n") == 1


def test_each_host_has_queues_of_its_own_where_their_names_say_so(
    run: Run, start_worker: StartWorker, server: RedisServer, client: RedisClient
) -> None:
    names = {
        "LAMA_INFERENCE_LONG_TASKS_QUEUE": "long@{host}",
        "LAMA_INFERENCE_SHORT_TASKS_QUEUE": "short@{host}",
    }
    host = socket.gethostname()
    worker = start_worker(**names)
    assert f"takes jobs from long@{host} and short@{host}" in worker.output
    told = printed(run("status", "--json", **names))
    assert told["queues"] == {"long": f"long@{host}", "short": f"short@{host}"}
    with Pipeline(server.url, f"long@{host}", f"short@{host}") as own:
        request = own.submit(*page(60, 90, 1), "short", canvas=(64, 96))
        assert own.fetch(request).shape == (60, 90, 3)
