"""`python worker.py doctor`: each problem is named, with a remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import torch

from core.config import Settings
from core.identity import identity_in
from harness import ROOT
from harness.private import own_shm
from harness.redis_server import RedisClient, RedisServer
from harness.wire import Pipeline, page
from harness.workers import StartWorker, segments
from tests.core.support import MODEL, command


def findings(*checks: str, **environment: object) -> tuple[int, list[dict[str, str]]]:
    """The exit status and what was found."""
    done = command("doctor", *checks, "--json", **{"USE_CUDA": 0, **environment})
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def only(found: list[dict[str, str]], level: str) -> dict[str, str]:
    """The one finding of a level."""
    (one,) = [finding for finding in found if finding["level"] == level]
    return one


def test_all_is_well(client: RedisClient, shm_baseline: None) -> None:
    with RedisServer(append_only=True) as durable:
        done = command("doctor", REDIS_URL=durable.url, USE_CUDA=0, **MODEL)
    assert done.returncode == 0, done.stdout
    assert "\n0 problems, " in done.stdout
    assert "LaMa with 2 blocks, ngf 16, " in done.stdout
    assert " parameters" in done.stdout
    assert "sha256 " in done.stdout
    assert "a picture of 128×128 was filled" in done.stdout
    assert "half precision is not used" in done.stdout or " against float32" in done.stdout


def test_dead_jobs_are_a_warning_with_the_command_that_lists_them(
    client: RedisClient, server: RedisServer
) -> None:
    client.rpush("inpainting:dead", "{}")
    _, found = findings("redis", REDIS_URL=server.url)
    (dead,) = [finding for finding in found if "dead-letter list" in finding["message"]]
    assert (dead["level"], dead["message"]) == ("warning", "1 job on the dead-letter list")
    assert "python worker.py dead list" in dead["remedy"]


def test_numbers_agree_with_their_nouns(client: RedisClient, server: RedisServer) -> None:
    client.rpush("inpainting:dead", "{}")
    done = command("doctor", "redis", REDIS_URL=server.url)
    assert re.fullmatch(r"0 problems, [2-9] warnings", done.stdout.splitlines()[-1])
    with RedisServer(append_only=True, options={"notify-keyspace-events": "Eh"}) as durable:
        redis.Redis.from_url(durable.url, protocol=2).rpush("inpainting:dead", "{}")
        done = command("doctor", "redis", REDIS_URL=durable.url)
    assert done.stdout.splitlines()[-1] == "0 problems, 1 warning"


def test_a_wrong_redis_url_is_named_without_its_password() -> None:
    status, found = findings("redis", REDIS_URL="redis://:secret@127.0.0.1:9")
    assert status == 1
    problem = only(found, "problem")
    assert "redis://***@127.0.0.1:9 cannot be reached" in problem["message"]
    assert "set REDIS_URL" in problem["remedy"]
    assert "secret" not in str(found)


def test_a_redis_that_refuses_the_user_is_told_apart(server: RedisServer) -> None:
    url = server.url.replace("//", "//nobody:x@")
    status, found = findings("redis", REDIS_URL=url)
    assert status == 1
    assert "refuses this user" in only(found, "problem")["message"]
    assert "redis://user:password@host" in only(found, "problem")["remedy"]


def test_the_advice_on_a_login_has_the_form_of_the_url(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    with RedisServer(options={"unixsocket": str(socket)}) as locked:
        redis.Redis.from_url(locked.url, protocol=2).config_set("requirepass", "x")
        _, found = findings("redis", REDIS_URL=f"unix://{socket}")
    assert "(unix://user:password@/path)" in only(found, "problem")["remedy"]


def test_a_database_that_the_server_does_not_have_is_told_by_its_number(
    server: RedisServer,
) -> None:
    status, found = findings("redis", REDIS_URL=f"{server.url.rstrip('/')}/99")
    assert status == 1
    problem = only(found, "problem")
    assert "has no database 99: " in problem["message"]
    assert "name a smaller number in REDIS_URL" in problem["remedy"]
    assert "rename-command" not in str(found)


def said_of_receivers(server: RedisServer, **environment: object) -> list[tuple[str, str]]:
    """What is said of the ways in which receivers learn of results."""
    _, found = findings("redis", REDIS_URL=server.url, **environment)
    return [
        (finding["level"], finding["message"])
        for finding in found
        if "events" in finding["message"] or "result queue" in finding["message"]
    ]


def test_how_receivers_learn_of_results_is_said(server: RedisServer, client: RedisClient) -> None:
    ((level, message),) = said_of_receivers(server)
    assert (level, message[:29]) == ("warning", "publishes no keyspace events,")
    client.config_set("notify-keyspace-events", "Eh")
    assert said_of_receivers(server) == [("ok", "publishes keyspace events of results")]
    client.config_set("notify-keyspace-events", "")
    client.rpush("told", "{}", "{}")
    told = {"RESULT_QUEUE": "told"}
    assert said_of_receivers(server, **told) == [("ok", "2 outcomes wait in the result queue told")]
    ((level, message),) = said_of_receivers(server, **told, RESULT_QUEUE_MAX=2)
    assert (level, message[:40]) == ("warning", "the result queue told is full, with 2 ou")
    ((level, message),) = said_of_receivers(server, RESULT_QUEUE="told:{request_id}")
    assert (level, message) == (
        "ok",
        "each request has a result queue of its own, told:{request_id}",
    )


def test_a_result_queue_that_is_no_list_is_a_problem(
    server: RedisServer, client: RedisClient
) -> None:
    client.set("told", "x")
    status, found = findings("redis", REDIS_URL=server.url, RESULT_QUEUE="told")
    assert status == 1
    assert "the key told is a string, must be a list" in only(found, "problem")["message"]


def test_a_redis_that_forgets_or_evicts_is_a_warning(server: RedisServer, client: Any) -> None:
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        status, found = findings("redis", REDIS_URL=server.url)
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert status == 0
    remedies = {finding["remedy"] for finding in found if finding["level"] == "warning"}
    # A loaded machine's Redis may be slow, which is a warning too.
    assert remedies >= {"CONFIG SET maxmemory-policy noeviction", "start it with --appendonly yes"}


def test_a_key_of_another_type_is_a_problem(server: RedisServer, client: RedisClient) -> None:
    client.set("lama_inference:longtasks", "mine")
    _, found = findings("redis", REDIS_URL=server.url)
    assert "lama_inference:longtasks is a string" in only(found, "problem")["message"]
    client.delete("lama_inference:longtasks")
    client.set("inpainting:submissions", "mine")
    _, found = findings("redis", REDIS_URL=server.url)
    assert "inpainting:submissions is a string" in only(found, "problem")["message"]


def test_missing_or_damaged_weights_are_a_problem(tmp_path: Path) -> None:
    missing = tmp_path / "best.ckpt"
    status, found = findings("model", **{**MODEL, "LAMA_CHECKPOINT_PATH": missing})
    assert status == 1
    assert f"{missing} (LAMA_CHECKPOINT_PATH): no such file" in only(found, "problem")["message"]
    assert "set LAMA_CHECKPOINT_PATH" in only(found, "problem")["remedy"]
    missing.symlink_to(missing.name)
    _, found = findings("model", **{**MODEL, "LAMA_CHECKPOINT_PATH": missing})
    assert "a link that leads back to itself" in only(found, "problem")["message"]
    missing.unlink()
    missing.write_bytes(b"no checkpoint")
    status, found = findings("model", **{**MODEL, "LAMA_CHECKPOINT_PATH": missing})
    assert status == 1
    assert "the model cannot be loaded" in only(found, "problem")["message"]


def test_a_checkpoint_that_cannot_be_read_is_a_problem_and_no_bug() -> None:
    status, found = findings("model", LAMA_CHECKPOINT_PATH="/proc/self/mem")
    assert status == 1
    messages = [finding["message"] for finding in found if finding["level"] == "problem"]
    assert messages[0] == "/proc/self/mem cannot be read: Input/output error"
    assert "bug" not in str(found)


@pytest.mark.parametrize("config", ["", "unset"])
def test_no_config_is_needed(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    monkeypatch.delenv("LAMA_CONFIG_PATH", raising=False)
    weights = {"LAMA_CHECKPOINT_PATH": MODEL["LAMA_CHECKPOINT_PATH"]}
    given = {} if config == "unset" else {"LAMA_CONFIG_PATH": config}
    status, found = findings("model", **weights, **given)
    assert status == 0
    # A machine with a GPU warns that it is left unused.
    assert "LAMA_CONFIG_PATH" not in str(found)
    assert "LaMa with 2 blocks, ngf 16, " in str(found)
    assert "a picture of 128×128 was filled" in str(found)


@pytest.mark.parametrize("kind", ["no such file", "a folder", "a named pipe"])
def test_a_configured_config_that_is_no_file_is_a_warning(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.yaml"
    if kind == "a folder":
        path.mkdir()
    if kind == "a named pipe":
        os.mkfifo(path)
    status, found = findings("model", **{**MODEL, "LAMA_CONFIG_PATH": path})
    assert status == 0
    warned = [f for f in found if f["level"] == "warning" and "LAMA_CONFIG_PATH" in str(f)]
    assert len(warned) == 1
    assert f"{path} (LAMA_CONFIG_PATH): {kind}" in warned[0]["message"]
    assert "unset LAMA_CONFIG_PATH" in warned[0]["remedy"]
    assert ("Docker makes a folder" in warned[0]["remedy"]) == (kind == "a folder")
    assert "LaMa with 2 blocks, ngf 16, " in str(found)


def test_a_config_that_disagrees_is_a_problem_that_says_what_differs() -> None:
    other = ROOT / "lama-fourier" / "config.yaml"
    status, found = findings("model", **{**MODEL, "LAMA_CONFIG_PATH": other})
    assert status == 1
    message = only(found, "problem")["message"]
    assert "the file has n_blocks = 2, the config says 9" in message
    assert "the file has ngf = 16, the config says 32" in message


def test_a_wrong_setting_is_a_problem_and_a_misspelt_one_a_warning() -> None:
    status, found = findings("settings", INPAINTING_BATCH_SIZE_LONG="many")
    assert status == 1
    assert "INPAINTING_BATCH_SIZE_LONG='many'" in only(found, "problem")["message"]
    status, found = findings("settings", LAMA_CHECKPOINT_PAHT="/x")
    assert status == 0
    assert only(found, "warning")["remedy"] == "is LAMA_CHECKPOINT_PATH meant?"
    assert command("doctor", "stars").returncode == 1


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can mount a small /dev/shm"
)
def test_a_full_shared_memory_is_a_problem(server: RedisServer) -> None:
    done = subprocess.run(
        [
            *own_shm("size=256k"),
            sys.executable,
            str(ROOT / "worker.py"),
            "doctor",
            "shm",
            "--json",
        ],
        env={**os.environ, "REDIS_URL": server.url},
        capture_output=True,
        text=True,
        timeout=50,
    )
    if done.stderr.startswith(("unshare: ", "mount: ")):
        pytest.skip(f"this container's root may not mount: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    problems = [finding for finding in found if finding["level"] == "problem"]
    assert done.returncode == 1
    assert "too little for a result" in problems[0]["message"]
    assert "/dev/shm has no room" in problems[1]["message"]
    assert all("shm_size" in problem["remedy"] for problem in problems)


def test_a_missing_shared_memory_is_a_problem(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.identity.SHM_FOLDER", "/nowhere/shm")
    status, found = findings("shm", REDIS_URL=server.url)
    assert status == 1
    assert "/nowhere/shm cannot be used" in only(found, "problem")["message"]
    assert "ipc: host" in only(found, "problem")["remedy"]


@pytest.fixture
def nobody() -> Iterator[int]:
    """The uid of an ordinary user, who this process is during the test."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    yield os.geteuid()
    os.seteuid(uid)


def test_segments_that_may_be_read_and_not_unlinked_are_a_warning(
    server: RedisServer, nobody: int
) -> None:
    status, found = findings("shm", REDIS_URL=server.url, SHM_ALLOWED_UIDS=f"{nobody},4242")
    assert status == 0
    warning = only(found, "warning")
    assert f"uid {nobody} can't unlink segments of uid 4242" in warning["message"]
    assert "one uid, or the worker as root" in warning["remedy"]
    _, found = findings("shm", REDIS_URL=server.url)
    assert not [finding for finding in found if finding["level"] == "warning"]


def test_jobs_that_wait_tell_whether_their_sender_shares_the_memory(
    server: RedisServer, pipeline: Pipeline, client: RedisClient
) -> None:
    message = pipeline.message(*page(60, 90, 1), "long", canvas=(64, 96))
    pipeline.push(message, "long")
    _, found = findings("shm", REDIS_URL=server.url)
    assert any("all 2 input segments" in finding["message"] for finding in found)
    foreign = json.dumps(message).replace('"img_shm_', '"img_shm_elsewhere')
    client.delete("lama_inference:longtasks")
    client.rpush("lama_inference:longtasks", foreign)
    status, found = findings("shm", REDIS_URL=server.url)
    assert status == 1
    assert "0 of 2 input segments of the next waiting jobs are here" in str(found)
    remedy = only(found, "problem")["remedy"]
    assert "ipc: host" in remedy
    # Its segments may have been unlinked: those of other senders are here.
    assert remedy.startswith("keep a sender on Python before 3.13 from unlinking its segments")
    assert len(segments()) == 2


def test_a_waiting_segment_that_is_here_and_cannot_be_opened_is_a_problem(
    server: RedisServer, pipeline: Pipeline, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = pipeline.message(*page(60, 90, 1), "long", canvas=(64, 96))
    names = [shut[f"preprocessed_{part}_shm_info"]["shm_name"] for part in ("img", "mask")]
    pipeline.push(shut, "long")
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if os.path.basename(path) in names:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr("core.pixels.shm.os.open", refuse)
    status, found = findings("shm", REDIS_URL=server.url)
    assert status == 1
    problem = only(found, "problem")
    assert "2 of 2 input segments of the next waiting jobs cannot be used" in problem["message"]
    assert f"{names[0]!r} cannot be opened: Permission denied" in problem["remedy"]
    assert "SELinux" in problem["remedy"]
    assert "are here, and can be opened" not in str(found)

    pipeline.push(pipeline.message(*page(60, 90, 1), "long", canvas=(64, 96)), "long")
    status, found = findings("shm", REDIS_URL=server.url)
    assert status == 0
    assert "2 of 4 input segments" in only(found, "warning")["message"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_not_there_is_a_problem() -> None:
    status, found = findings("model", **MODEL, USE_CUDA=1)
    assert status == 1
    problem = only(found, "problem")
    assert "USE_CUDA=1, but no CUDA device can be used; the CPU is" in problem["message"]
    assert "--gpus all" in problem["remedy"]
    assert any("a picture of 128×128 was filled" in finding["message"] for finding in found)

    status, found = findings("model", **MODEL, USE_CUDA="require")
    assert status == 1
    assert "USE_CUDA=require, but" in only(found, "problem")["message"]
    assert "the worker does not start" in found[-1]["message"]

    status, found = findings("model", **MODEL, USE_CUDA="")  # the default is a wish
    assert status == 0
    assert "USE_CUDA=1, but no CUDA device can be used" in only(found, "warning")["message"]


def test_a_worker_of_the_same_queues_on_another_shared_memory_is_a_warning(
    start_worker: StartWorker, server: RedisServer, client: RedisClient
) -> None:
    start_worker()
    (key,) = client.keys("inpainting:worker:*")
    beat = json.loads(client.get(key)) | {"namespace": "elsewhere"}
    far = identity_in(Settings(redis_url=server.url).queues, "elsewhere").worker
    client.set(f"inpainting:worker:{far}", json.dumps(beat))
    _, found = findings("shm", REDIS_URL=server.url)
    assert "see another shared memory" in only(found, "warning")["message"]
    assert "{host}" in only(found, "warning")["remedy"]
