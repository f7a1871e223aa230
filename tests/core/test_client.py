"""What a client leaves behind, however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from core import keys
from core.client import Client, Submission, SubmitError
from core.config import Settings
from core.keys import Kind
from core.pixels import shm
from harness import ROOT
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import Pipeline, page
from harness.workers import OWN, StartWorker

QUEUE = "lama_inference:shorttasks"


def named_in(payload: bytes) -> list[str]:
    """The segments of a message: picture, mask, original."""
    message = json.loads(payload)
    return [value["shm_name"] for name, value in message.items() if name.endswith("_shm_info")]


def here(names: Any) -> list[bool]:
    return [shm.exists(name) for name in names]


@pytest.fixture
def sender(server: RedisServer, client: RedisClient) -> Iterator[Client]:
    with Client(Settings(redis_url=server.url)) as sending:
        yield sending


def submit(sender: Client) -> Submission:
    return sender.submit(*page(60, 90, 1), Kind.SHORT, "page.png")


@pytest.fixture
def submitting(server: RedisServer, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`worker.py submit` with a small picture; it is killed at the end of the test."""
    image, mask = page(60, 90, 1)
    cv2.imwrite(str(tmp_path / "page.png"), image)
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    words = ["submit", "page.png", "mask.png", "--kind", "short"]
    with subprocess.Popen(
        [sys.executable, str(ROOT / "worker.py"), *words],
        cwd=tmp_path,
        env={"REDIS_URL": server.url},
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        yield started
        started.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_submit_that_is_ended_while_its_job_waits_takes_it_back(
    client: RedisClient, submitting: subprocess.Popen[str], number: int
) -> None:
    wait_until(lambda: client.llen(QUEUE), "the job waits")
    names = named_in(client.lindex(QUEUE, 0))
    assert all(here(names))
    submitting.send_signal(number)
    assert submitting.communicate()[1] == ""
    assert submitting.returncode == 130
    assert client.llen(QUEUE) == 0
    assert not any(here(names))


def test_a_submit_that_is_ended_while_a_worker_has_its_job_unlinks_the_original(
    client: RedisClient,
    start_worker: StartWorker,
    pipeline: Pipeline,
    make_hold: Any,
    submitting: subprocess.Popen[str],
) -> None:
    hold = make_hold()
    start_worker(STUB_HOLD=hold)
    wait_until(lambda: client.keys("inpainting:processing:*"), "a worker has the job")
    client.config_resetstat()
    wait_until(lambda: "cmdstat_hgetall" in client.info("commandstats"), "its result is awaited")
    payload = client.lindex(client.keys("inpainting:processing:*")[0], 0)
    *inputs, original = named_in(payload)
    submitting.send_signal(signal.SIGTERM)
    submitting.communicate()
    assert not shm.exists(original)
    assert all(here(inputs))
    hold.unlink()
    assert pipeline.fetch(json.loads(payload)["request_id"]).shape == (60, 90, 3)
    wait_until(lambda: not any(here(inputs)), "the worker has unlinked its inputs")


def test_a_job_that_waits_for_another_try_is_taken_back(
    client: RedisClient, sender: Client
) -> None:
    submission = submit(sender)
    client.zadd(keys.delayed(QUEUE), {submission.payload: 2e9})
    client.delete(QUEUE)
    with pytest.raises(SubmitError, match="no result after 0 s"):
        sender.wait(submission, 0)
    assert client.keys() == []
    assert not any(here(submission.segments))


def test_a_job_that_nobody_waits_for_is_taken_back_when_its_client_ends(
    client: RedisClient, server: RedisServer
) -> None:
    with Client(Settings(redis_url=server.url)) as sender:
        submission = submit(sender)
        assert all(here(submission.segments))
    assert client.keys() == []
    assert not any(here(submission.segments))


@pytest.mark.parametrize("failing", ["write", "push"])
def test_a_submission_that_is_interrupted_leaves_nothing(
    client: RedisClient, sender: Client, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    written: list[str] = []
    write, push = shm.write, sender._redis.rpush

    def writing(name: str, *how: Any) -> None:
        written.append(name)
        write(name, *how)
        if failing == "write" and len(written) == 2:
            raise KeyboardInterrupt

    def pushing(*what: Any) -> None:
        push(*what)
        raise KeyboardInterrupt

    monkeypatch.setattr(shm, "write", writing)
    monkeypatch.setattr(sender._redis, "rpush", pushing)
    with pytest.raises(KeyboardInterrupt):
        submit(sender)
    assert client.keys() == []
    assert written
    assert not any(here(written))


def test_without_redis_a_client_says_so_and_unlinks_the_original(shm_baseline: None) -> None:
    with RedisServer() as own, Client(Settings(redis_url=own.url)) as sender:
        submission = submit(sender)
        own.stop()
        address = own.url.removeprefix("redis://")
        with pytest.raises(SubmitError, match="the result cannot be fetched: ") as caught:
            sender.wait(submission, 30)
        assert f"redis at redis://{address} cannot be used: " in str(caught.value)
        with pytest.raises(SubmitError, match=f"cannot be submitted: redis at redis://{address} "):
            submit(sender)
        # The job may still be in the queue: picture and mask are for the worker that gets it.
        assert here(submission.segments) == [True, True, False, False]
        own.start()
        shm.unlink_all(submission.segments, {shm.owner(submission.segments[0])})


def announce(client: RedisClient, submission: Submission, name: str) -> None:
    """A worker's result, as its hash tells it."""
    info = {"shm_name": name, "shape": [60, 90, 3], "dtype": "uint8", "size": 16200}
    client.delete(QUEUE)
    client.hset(keys.result(submission.request_id), "inpaint_shm_info", json.dumps(info))


def test_a_result_that_cannot_be_read_leaves_nothing(client: RedisClient, sender: Client) -> None:
    submission = submit(sender)
    announce(client, submission, f"img_shm_{OWN}none")
    with pytest.raises(SubmitError, match=r"the result cannot be fetched: .*No such file"):
        sender.wait(submission, 30)
    assert client.keys() == []
    assert not any(here(submission.segments))


def test_an_interrupt_while_the_result_is_read_leaves_nothing(
    client: RedisClient, sender: Client, monkeypatch: pytest.MonkeyPatch, shm_baseline: None
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    submission = submit(sender)
    name = f"img_shm_{OWN}result"
    shm.write(name, np.zeros((60, 90, 3), np.uint8), 0o600)
    announce(client, submission, name)
    monkeypatch.setattr(shm, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sender.wait(submission, 30)
    assert client.keys() == []
    assert not any(here([name, *submission.segments]))
