"""`worker.py dead`: what it lists, retries and discards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime

import pytest

from core.broker.dead_job import write_entry, write_truncated_entry
from core.identity import current_namespace
from harness import ROOT
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import Pipeline, encode, page
from harness.workers import StartWorker, segments
from tests.core.support import Run, printed


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
    queue, here = "lama_inference:longtasks", current_namespace()
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
        namespace=current_namespace(),
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


@pytest.mark.parametrize("words", ["dead list --json", "status"])
def test_an_output_that_is_closed_is_no_error_of_redis(
    server: RedisServer, client: RedisClient, words: str
) -> None:
    queue = "lama_inference:longtasks"
    payload = b'{"request_id": "x", "padding": "%s"}' % (b"y" * 5000)
    entry = write_entry(payload, reason="bad_field", queue=queue, error="e")
    client.rpush("inpainting:dead", *[entry] * 500)
    command = subprocess.Popen(
        [sys.executable, str(ROOT / "worker.py"), *words.split()],
        env={**os.environ, "REDIS_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    command.stdout.close()
    _, said = command.communicate(timeout=60)
    assert (command.returncode, said) == (1, b"")
