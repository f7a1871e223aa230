"""The sender and the receiver of docs/contract.md, run against a real worker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from core import contract
from harness import ROOT
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Kind, Pipeline, page
from harness.workers import SOON, StartWorker
from lama import halving

PAGE = (ROOT / "docs/contract.md").read_text()
SENDER, RECEIVER, QUEUE_RECEIVER = re.findall(
    r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE
)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_program(server: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Starts a program of the page; it is killed at the end of the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        program = tmp_path / f"program-{len(processes)}.py"
        program.write_text(code)
        process = subprocess.Popen(
            [sys.executable, program, *map(str, arguments)],
            env={"REDIS_URL": server.url},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_picture_goes_from_the_pages_sender_to_its_receiver(
    start_worker: StartWorker,
    start_program: Start,
    pipeline: Pipeline,
    client: RedisClient,
    tmp_path: Path,
) -> None:
    image, mask = page(60, 90, 1)
    cv2.imwrite(str(tmp_path / "page.png"), image)
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    sender = start_program(SENDER, tmp_path / "page.png", tmp_path / "mask.png")
    request = sender.communicate(timeout=30)[0].strip()
    assert sender.returncode == 0
    message = json.loads(client.lrange("lama_inference:shorttasks", 0, -1)[0])
    inputs = [message[f"preprocessed_{part}_shm_info"]["shm_name"] for part in ("img", "mask")]
    assert all(map(pipeline.exists, inputs))

    client.config_set("notify-keyspace-events", "Eh")
    receiver = start_program(RECEIVER, tmp_path)
    assert receiver.stdout is not None
    start_worker()
    assert receiver.stdout.readline() == f"{request}: saved\n"

    picture = cv2.imread(str(tmp_path / f"{request}.png"))
    assert picture is not None
    np.testing.assert_array_equal(picture[mask == 0], image[mask == 0])
    assert (picture[mask > 0] == 128).all()  # the stub's grey
    wait_until(lambda: not any(map(pipeline.exists, inputs)), "the inputs are unlinked")
    assert not client.exists(f"inpainting_result:{request}")

    client.rpush("lama_inference:longtasks", json.dumps({"request_id": "r2", "image_id": "2.jpg"}))
    assert receiver.stdout.readline().startswith("r2: bad_field: ")


def test_a_thousand_outcomes_reach_the_pages_receiver_once_each_while_workers_are_killed(
    start_worker: StartWorker, start_program: Start, pipeline: Pipeline, client: RedisClient
) -> None:
    settings = {**SOON, "RESULT_QUEUE": "inpainting_outcomes", "MAX_ATTEMPTS": 100}
    workers = [start_worker(**settings) for _ in range(2)]
    receiver = start_program(QUEUE_RECEIVER)
    assert receiver.stdout is not None
    expected: dict[str, str | None] = {}
    received: list[dict[str, Any]] = []
    for number in range(1000):
        kind: Kind = "short" if number % 2 else "long"
        options: dict[str, Any] = {"request_id": f"r{number}"}
        reason = {7: "bad_field", 8: "expired"}.get(number % 10)
        if reason == "bad_field":
            options["padding_info"] = "bad"
        elif reason == "expired":
            options["expires_at"] = 1
        expected[f"r{number}"] = reason
        pipeline.submit(*page(20, 30, number), kind, canvas=(32, 32), **options)
        if number % 250 == 200:  # those behind it are in hand, or soon are
            workers.pop(0).kill()
            workers.append(start_worker(**settings))
    while len(received) < 1000:
        outcome, end = json.JSONDecoder().raw_decode(line := receiver.stdout.readline())
        received.append(outcome)
        assert (outcome["status"] == "done") == ("shm_name" in line[end:])
        assert outcome["is_long"] == (int(outcome["request_id"][1:]) % 2 == 0)
    assert {told["request_id"]: told["reason"] for told in received} == expected
    wait_until(lambda: not client.exists(LONG, SHORT, "inpainting_outcomes"), "all is done")
    assert not list(client.scan_iter("inpainting_result:*"))
    wait_until(lambda: client.llen("inpainting:dead") == 100, "the bad ones are dead")


def test_every_reason_of_a_failure_has_its_row() -> None:
    table = PAGE.partition("| `reason` |")[2].partition("\n\n")[0]
    listed = set(
        re.findall(r"`([a-z]+_[a-z_]+)`", "\n".join(re.findall(r"^\| (.*?) \|", table, re.M)))
    )
    listed |= set(re.findall(r"^\| `(crashed|expired)` ", table, re.MULTILINE))
    raised = {"crashed", "expired"}
    for path in (ROOT / "core").rglob("*.py"):
        found = re.findall(
            r"(?:BadMessage|TransientFailure|_refuse)\(\s*\"([a-z_]+)\"", path.read_text()
        )
        raised |= set(found)
    image = np.zeros((1, 1, 3), np.uint8)
    raised |= {halving.explained(image, error)[0] for error in (MemoryError(), ValueError())}
    assert listed == raised
    assert contract.MAX_ID_LENGTH == 1024
