"""A worker with a /dev/shm of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.jobs import CANVAS
from harness.private import is_allowed, own_shm
from harness.wire import DEV_SHM, Pipeline, page
from harness.workers import SOON, StartWorker, Worker

needs_mounts = pytest.mark.skipif(
    not is_allowed(), reason="a /dev/shm of one's own cannot be mounted by this user"
)


class Private:
    """A worker with a /dev/shm of its own."""

    def __init__(self, start_worker: StartWorker, **settings: object) -> None:
        self.worker: Worker = start_worker(behind=own_shm("size=64m"), **{**SOON, **settings})
        self.folder = Path(f"/proc/{self.worker.pid}/root/dev/shm")

    def place(self, message: dict[str, Any]) -> dict[str, Any]:
        """Have a message's segments where this worker sees them, and only there."""
        for field in ("preprocessed_img_shm_info", "preprocessed_mask_shm_info"):
            name = message[field]["shm_name"]
            shutil.move(DEV_SHM / name, self.folder / name)
        return message

    def send(self, pipeline: Pipeline, seed: int = 1, **options: Any) -> str:
        message = pipeline.message(*page(60, 90, seed), "long", canvas=CANVAS, **options)
        pipeline.push(self.place(message), "long")
        return str(message["request_id"])
