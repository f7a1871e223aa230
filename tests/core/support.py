"""What several of these files need: commands in this process, weights, settings, results."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import keys
from core.config import Settings
from core.identity import current_identity
from core.keys import Kind
from harness import ROOT
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT
from harness.workers import OWN, Worker
from worker import main

GOLDEN = ROOT / "tests/data/golden/blocks2-ngf16"

#: Settings of a worker with a small network whose results are known.
MODEL = {
    "LAMA_CONFIG_PATH": GOLDEN / "config.yaml",
    "LAMA_CHECKPOINT_PATH": GOLDEN / "models/best.ckpt",
}


@dataclass
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def command(*words: object, **environment: object) -> Done:
    """Run a command of worker.py, in this process: a new one takes a second to start."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, str(value))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(list(map(str, words)))
            except SystemExit as ended:
                status = int(str(ended.code))
    return Done(status, out.getvalue(), err.getvalue())


def entry_of_an_earlier_version(payload: bytes, **about: Any) -> bytes:
    """An entry as it was written before the message came last."""
    entry = {"raw": payload.decode("utf-8", "replace"), **about}
    if "\ufffd" in entry["raw"]:
        entry["raw_base64"] = base64.b64encode(payload).decode()
    return json.dumps({**entry, "at": 5}).encode()


def settings_for(server: RedisServer, **changes: Any) -> Settings:
    """Settings as those of a worker that these tests start."""
    return Settings(
        _env_file=None, redis_url=server.url, shm_name_prefix=f"img_shm_{OWN}", **changes
    )


def leave_behind(server: RedisServer, client: RedisClient, *payloads: bytes) -> str:
    """A dead worker of this shared memory with long jobs that it has read; its id."""
    identity = current_identity(settings_for(server).queues)
    client.sadd(keys.workers(identity.namespace), identity.worker)
    client.rpush(keys.processing(identity.worker, Kind.LONG), *payloads)
    return identity.worker


class Memory:
    """By how much the memory of a worker has grown at most since `begin`."""

    def __init__(self, worker: Worker) -> None:
        self._folder = Path(f"/proc/{worker.pid}")
        self.begin()

    def begin(self) -> None:
        (self._folder / "clear_refs").write_text("5")
        self._began = self._read("VmRSS")

    @property
    def growth(self) -> int:
        return self._read("VmHWM") - self._began

    def _read(self, name: str) -> int:
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")


def take(fields: dict[str, Any]) -> np.ndarray:
    """The picture of a result that was read from its hash; its segment is unlinked."""
    info = fields["inpaint_shm_info"]
    path = Path("/dev/shm", info["shm_name"])
    picture = np.frombuffer(path.read_bytes(), info["dtype"]).reshape(info["shape"])
    path.unlink()
    return picture


def wait_until_idle(client: RedisClient) -> None:
    """Return once nothing is queued, in hand or to be cleaned up."""
    wait_until(
        lambda: (
            not client.exists(LONG, SHORT)
            and not list(client.scan_iter("inpainting:processing:*"))
            and not list(client.scan_iter("inpainting:cleanup:*"))
        ),
        "the worker is idle",
    )


#: The type of the fixture `run` of the commands.
Run = Callable[..., Done]


def without_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Take all settings out of the environment, and go to a folder whose .env is the test's own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(folder)


def printed(done: Done) -> Any:
    """The JSON that a command printed, if it succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
