"""`python worker.py COMMAND`, as it is typed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

import cv2
import pytest

from core.broker.dead_job import write_entry, write_truncated_entry
from core.config import Settings
from core.identity import current_identity
from harness import ROOT
from harness.admin import PORT
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import Pipeline, encode, page
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


@pytest.fixture
def two_dead(start_worker: StartWorker, pipeline: Pipeline, client: RedisClient) -> str:
    """A job that the network could not do, and a message with escapes; the former's request."""
    start_worker(MAX_ATTEMPTS=1)
    request = pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96), image_id="explode.jpg")
    pipeline.push(json.dumps({"request_id": "\x1b[31mred\nforged"}).encode(), "long")
    wait_until(lambda: client.llen("inpainting:dead") == 2, "both are dead")
    return request


def test_dead_jobs_are_listed_shown_retried_and_discarded(
    run: Run, two_dead: str, client: RedisClient
) -> None:
    listed = run("dead", "list").stdout
    assert len(listed.splitlines()) == 3
    assert "\x1b" not in listed
    one = printed(run("dead", "list", "--reason", "inference_failed", "--json"))
    assert [job["request_id"] for job in one] == [two_dead]
    assert one[0]["inputs"] == "here"
    shown = run("dead", "show", one[0]["id"][:8]).stdout
    assert f"request_id {two_dead}" in shown
    assert "preprocessed_img_shm_info" in shown
    assert printed(run("dead", "show", two_dead, "--json"))[0]["message"]["is_long"] is False

    tried = run("dead", "retry", "--reason", "inference_failed", "--dry-run")
    assert "would be retried" in tried.stdout
    assert client.llen("inpainting:dead") == 2
    (outcome,) = printed(run("dead", "retry", two_dead, "--json"))
    assert outcome["outcome"] == "retried"
    wait_until(lambda: client.llen("inpainting:dead") == 2, "it has died again")

    refused = run("dead", "retry", "--reason", "bad_field", "--json")
    assert refused.returncode == 1
    (outcome,) = json.loads(refused.stdout)
    assert outcome["outcome"].startswith("left alone: it would fail again as bad_field: ")
    forced = run("dead", "retry", "--reason", "bad_field", "--force")
    assert "1 of 1 retried" in forced.stdout
    wait_until(lambda: client.llen("inpainting:dead") == 2, "it has died again")

    assert "1 of 1 discarded" in run("dead", "discard", two_dead).stdout
    assert not segments()
    assert "1 of 1 discarded" in run("dead", "discard", "--all").stdout
    assert run("dead", "list").stdout == "no dead jobs\n"
    assert printed(run("dead", "list", "--json")) == []


def test_retrying_all_leaves_what_would_fail_again_and_says_how_many_and_why(
    run: Run, client: RedisClient
) -> None:
    queue, here = "lama_inference:longtasks", current_identity(Settings(_env_file=None)).namespace
    for payload, reason in (
        (b"no json", "bad_json"),
        (b"{}", "bad_field"),
        (b'{"request_id": "gone"}', "segment_missing"),
    ):
        about = {"reason": reason, "queue": queue, "error": "e", "namespace": here}
        client.rpush("inpainting:dead", write_entry(payload, **about))
    for words in (["--all"], ["--all", "--dry-run"], ["--reason", "bad_json"]):
        refused = run("dead", "retry", *words)
        assert refused.returncode == 1
        assert "worker.py: nothing w" in refused.stderr
        assert "1: it would fail again as bad_json" in refused.stderr
    everything = run("dead", "retry", "--all").stderr
    assert "1: it would fail again as bad_field" in everything
    assert "1: its inputs are gone, or it names none" in everything
    assert client.llen("inpainting:dead") == 3
    assert "1 of 1 retried" in run("dead", "retry", "--reason", "bad_json", "--force").stdout
    assert client.lrange(queue, 0, -1) == [b"no json"]


def test_a_message_that_new_settings_accept_is_retried(
    run: Run, client: RedisClient, pipeline: Pipeline
) -> None:
    message = encode(pipeline.message(*page(60, 90, 1), "long", canvas=(64, 96)))
    entry = write_entry(
        message,
        reason="too_large",
        queue="lama_inference:longtasks",
        error="e",
        namespace=current_identity(Settings(_env_file=None)).namespace,
    )
    client.rpush("inpainting:dead", entry)
    assert run("dead", "retry", "--all", MAX_IMAGE_PIXELS=100).returncode == 1
    assert "1 of 1 retried" in run("dead", "retry", "--all").stdout


@pytest.mark.parametrize("change", ["retry", "discard"])
def test_changing_no_job_is_an_error_with_a_sentence(
    run: Run, client: RedisClient, change: str
) -> None:
    for words, said in (
        (["--all"], "there are no dead jobs"),
        (["--reason", "crashed"], "no dead job matches"),
        (["12345678"], "no dead job is named by 12345678"),
    ):
        done = run("dead", change, *words, "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout) == []
        assert said in done.stderr


def test_a_dead_job_is_shown_with_its_time_and_its_message_as_json(
    run: Run, client: RedisClient
) -> None:
    message = {"request_id": "r1", "is_long": True, "text": None}
    client.rpush("inpainting:dead", write_entry(json.dumps(message).encode(), reason="bad_field"))
    shown = run("dead", "show", "r1").stdout.splitlines()[:-1]
    lines = {line[:11].rstrip(): line[11:] for line in shown}
    assert json.loads(lines["message"]) == message
    moment, age, ago = lines["at"].split()
    assert abs(datetime.fromisoformat(moment).timestamp() - time.time()) < 60
    assert datetime.fromisoformat(moment).tzinfo is not None
    assert (age[0], ago) == ("(", "ago)")


def test_a_long_message_is_shown_up_to_the_limit_and_not_listed(
    run: Run, client: RedisClient
) -> None:
    about = {"reason": "too_long", "queue": "lama_inference:longtasks"}
    payload = json.dumps({"request_id": "long", "text": "x" * 50_000}).encode()
    client.rpush("inpainting:dead", write_entry(payload, **about))
    client.rpush("inpainting:dead", write_entry(b'{"request_id": "short"}', **about))
    client.rpush("inpainting:dead", write_truncated_entry(2_000_000, "a" * 40, b"{", **about))
    long, short, truncated = printed(run("dead", "list", "--json"))
    assert (long["request_id"], long["length"]) == ("long", len(payload))
    assert long["message"] is None
    assert short["message"] == {"request_id": "short"}
    assert (truncated["length"], truncated["sha1"]) == (2_000_000, "a" * 40)
    (shown,) = printed(run("dead", "show", "long", "--json"))
    assert shown == {**long, "message": json.loads(payload)}
    (cut,) = printed(run("dead", "show", "long", "--json", MAX_MESSAGE_BYTES=2000))
    assert cut["message"].encode() == payload[:2000]
    (last,) = printed(run("dead", "list", "--json", "--limit", 1))
    assert last == truncated
    left = run("dead", "retry", truncated["id"], "--force").stdout
    assert "left alone: its message was above MAX_MESSAGE_BYTES" in left
    assert "1 of 1 discarded" in run("dead", "discard", truncated["id"]).stdout


def test_everything_is_discarded_on_a_full_server(run: Run, client: RedisClient) -> None:
    for number in range(2500):
        payload = json.dumps({"request_id": str(number)}).encode()
        entry = write_entry(payload, reason="bad_field", queue="lama_inference:longtasks")
        client.rpush("inpainting:dead", entry)
    client.config_set("maxmemory", 1)
    try:
        assert "2500 of 2500 discarded" in run("dead", "discard", "--all").stdout
    finally:
        client.config_set("maxmemory", 0)
    assert client.keys() == []


@pytest.mark.parametrize("words", ["dead retry", "dead discard", "dead discard --dry-run"])
def test_nothing_is_changed_unless_it_is_named(run: Run, client: RedisClient, words: str) -> None:
    client.rpush("inpainting:dead", json.dumps({"raw": "x", "queue": "lama_inference:longtasks"}))
    done = run(*words.split())
    assert done.returncode == 1
    assert done.stderr == "worker.py: name dead jobs, give a filter, or --all\n"
    unknown = run(*words.split(), "0123456789ab")
    assert "no dead job is named by 0123456789ab" in unknown.stderr
    assert run(*words.split(), "--older-than", "soon").returncode == 2
    assert client.llen("inpainting:dead") == 1


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
