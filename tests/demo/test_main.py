"""The whole demo, with a stub in place of the network: what it starts, leaves and cleans up."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

import demo.main
from core.config import Settings
from core.pixels import shm
from demo.jobs import Jobs
from demo.main import run_demo
from demo.scenes import SCENES, build
from demo.worker_process import WorkerProcess
from harness import ROOT
from harness.redis_server import RedisClient, RedisServer
from harness.workers import STUB_WORKER


class Traces:
    """What a run of the demo had and made."""

    settings: Settings
    pid: int
    segments: list[str]

    def assert_gone(self) -> None:
        """The worker has ended, and no segment is left."""
        assert not Path(f"/proc/{self.pid}").exists()
        left = [
            name
            for name in shm.names()
            if name in self.segments or name.startswith(self.settings.shm_name_prefix)
        ]
        assert left == []


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Traces:
    """Makes the demo small and its worker a stub, and notes what it does."""
    traces = Traces()
    traces.segments = []
    write = shm.write

    def noted_write(name: str, *rest: Any) -> None:
        traces.segments.append(name)
        write(name, *rest)

    class NotedJobs(Jobs):
        def __init__(self, settings: Settings) -> None:
            traces.settings = settings
            super().__init__(settings)

    class NotedWorker(WorkerProcess):
        def wait_until_registered(self) -> None:
            traces.pid = self.pid
            super().wait_until_registered()

    monkeypatch.chdir(tmp_path)  # away from any .env
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(shm, "write", noted_write)
    monkeypatch.setattr(demo.main, "all_scenes", lambda: [build("coffee", *SCENES["coffee"])])
    monkeypatch.setattr(demo.main, "Jobs", NotedJobs)
    monkeypatch.setattr(
        demo.main, "WorkerProcess", functools.partial(NotedWorker, program=STUB_WORKER)
    )
    return traces


def test_the_demo_leaves_pictures_and_numbers_and_nothing_else(
    traces: Traces,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = [build(name, *SCENES[name]) for name in ("coffee", "shirt")]
    monkeypatch.setattr(demo.main, "all_scenes", lambda: both)
    output = tmp_path / "out"

    status = run_demo(output)

    assert status == 0, capsys.readouterr()
    assert {path.name for path in output.iterdir()} == {
        *(
            f"{name}-{what}.png"
            for name in ("coffee", "shirt")
            for what in ("before", "mask", "after")
        ),
        "contact-sheet.png",
        "results.json",
        "worker.log",
    }
    numbers = json.loads((output / "results.json").read_text())
    assert numbers["worker_exit_status"] == 0
    assert [one["rest_identical"] for one in numbers["scenes"]] == [True, True]
    printed = capsys.readouterr().out
    assert "shirt" in printed
    assert str(output / "contact-sheet.png") in printed
    assert "\x1b" not in printed
    traces.assert_gone()


def test_on_a_given_redis_the_demo_uses_queues_of_its_own(
    traces: Traces,
    tmp_path: Path,
    client: RedisClient,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    client.rpush("lama_inference:longtasks", b"a real job")

    assert run_demo(tmp_path / "out") == 0

    assert client.lrange("lama_inference:longtasks", 0, -1) == [b"a real job"]
    assert not client.keys("demo:*")
    assert not client.keys("inpainting_result:*")
    assert traces.settings.lama_inference_long_tasks_queue.startswith("demo:")
    traces.assert_gone()


def test_an_interrupted_demo_clears_up(
    traces: Traces,
    tmp_path: Path,
    client: RedisClient,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("STUB_HOLD", str(hold))  # no result ever comes
    monkeypatch.setenv("SHUTDOWN_GRACE_S", "0.2")  # so that the worker leaves its jobs behind
    monkeypatch.setattr(Jobs, "collect", interrupted)

    assert run_demo(tmp_path / "out") == 130

    assert traces.segments
    assert not client.keys("demo:*")
    assert not client.keys("inpainting:processing:*")
    assert not client.keys("inpainting:worker*")
    traces.assert_gone()


def test_a_worker_that_ends_at_once_is_reported_with_the_end_of_its_log(
    traces: Traces,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('no such weights')")
    monkeypatch.setattr(
        demo.main, "WorkerProcess", functools.partial(WorkerProcess, program=program)
    )

    assert run_demo(tmp_path / "out") == 1

    complaint = capsys.readouterr().err
    assert "the worker ended with exit status 1" in complaint
    assert "no such weights" in complaint


def test_a_redis_that_cannot_be_reached_is_an_error_at_once(
    traces: Traces,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")

    assert run_demo(tmp_path / "out") == 1

    assert "redis at redis://127.0.0.1:1 cannot be used" in capsys.readouterr().err


def test_a_wrong_setting_is_an_error_that_names_it(
    traces: Traces,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASK_THRESHOLD", "300")

    assert run_demo(tmp_path / "out") == 1

    assert "MASK_THRESHOLD" in capsys.readouterr().err
