"""The programs on either side of a worker, and workers as processes, for benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import redis

from core import keys
from core.config import PROJECT_ROOT
from core.contract import CANVAS
from core.keys import Kind
from core.pixels.shm import SHM_FOLDER

DEV_SHM: Final = Path(SHM_FOLDER)

#: Seconds without any result after which a consumer counts as stuck; loading a network counts.
PATIENCE_S: Final = 120.0

#: What all names of segments here begin with, so that none is left behind.
PREFIX: Final = f"img_shm_bench{os.getpid()}_"

#: (request id, payload)
Job = tuple[str, bytes]


class Consumer:
    """Processes that run one program and serve two queues of their own. A context manager."""

    def __init__(self, url: str, module: str, count: int = 1, **settings: object) -> None:
        self.queues = {kind: f"benchmark:{uuid.uuid4().hex}:{kind}" for kind in Kind}
        self._module = module
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(PROJECT_ROOT),
            "REDIS_URL": url,
            "LAMA_INFERENCE_LONG_TASKS_QUEUE": self.queues[Kind.LONG],
            "LAMA_INFERENCE_SHORT_TASKS_QUEUE": self.queues[Kind.SHORT],
            "SHM_NAME_PREFIX": f"{PREFIX}r",
            "LOG_LEVEL": "WARNING",
            **{key: str(value) for key, value in settings.items()},
        }

    def __enter__(self) -> Consumer:
        for _ in range(self._count):
            command = [sys.executable, "-m", self._module]
            self._processes.append(subprocess.Popen(command, env=self._environment))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()


class Traffic:
    """Puts jobs on queues and takes their results. A context manager.

    All jobs of a kind carry the same picture, uint8 H×W×3, and mask, H×W, on that kind's canvas,
    without padding.
    """

    def __init__(self, url: str, pictures: Mapping[Kind, tuple[np.ndarray, np.ndarray]]) -> None:
        client: Any = redis.Redis.from_url(url, protocol=2)
        self.redis = client
        self.redis.config_set("notify-keyspace-events", "Eh")
        self.pictures = pictures
        self._events: Any = self.redis.pubsub(ignore_subscribe_messages=True)
        self._events.psubscribe("__keyevent@*__:hset")

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self.redis.close()
        for path in DEV_SHM.glob(f"{PREFIX}*"):
            path.unlink(missing_ok=True)

    def wait_until_ready(self, consumer: Consumer, jobs: int = 1) -> None:
        """Send jobs through, so that everything is loaded and has been used once."""
        for kind in Kind:
            self.run(consumer, kind, jobs)

    def run(self, consumer: Consumer, kind: Kind, count: int) -> float:
        """Seconds from pushing so many jobs at once to the last result; everything is removed."""
        jobs = self.make(kind, count)
        began = self.push(consumer, kind, jobs)
        arrived = self.arrivals(jobs)
        self.take(jobs)
        return max(arrived.values()) - began

    def make(self, kind: Kind, count: int) -> list[Job]:
        """Segments and messages of so many jobs; nothing is pushed."""
        return [self._job(kind) for _ in range(count)]

    def push(self, consumer: Consumer, kind: Kind, jobs: Sequence[Job]) -> float:
        """RPUSH them at once; time.perf_counter() just before."""
        began = time.perf_counter()
        self.redis.rpush(consumer.queues[kind], *(payload for _, payload in jobs))
        return began

    def arrivals(self, jobs: Sequence[Job]) -> dict[str, float]:
        """time.perf_counter() when each request's result was announced; raises TimeoutError."""
        awaited = {request for request, _ in jobs}
        heard: dict[str, float] = {}
        while awaited - heard.keys():
            more = self.arrivals_until(
                time.perf_counter() + PATIENCE_S, len(awaited - heard.keys())
            )
            if not more:
                raise TimeoutError(f"{len(awaited - heard.keys())} results are missing")
            heard |= more
        return {request: heard[request] for request in awaited}

    def arrivals_until(self, end: float, count: int = sys.maxsize) -> dict[str, float]:
        """Results that are announced until then, time.perf_counter(); at most so many."""
        heard: dict[str, float] = {}
        while len(heard) < count and (left := end - time.perf_counter()) > 0:
            event = self._events.get_message(timeout=left)  # None for a subscription, too
            if event is not None:
                request = event["data"].decode().removeprefix(keys.result(""))
                heard.setdefault(request, time.perf_counter())
        return heard

    def take(self, jobs: Sequence[Job]) -> None:
        """Delete the results and their segments."""
        for request, _ in jobs:
            fields = self.redis.hgetall(keys.result(request))
            self.redis.delete(keys.result(request))
            (DEV_SHM / json.loads(fields[b"inpaint_shm_info"])["shm_name"]).unlink()

    def _job(self, kind: Kind) -> Job:
        image, mask = self.pictures[kind]
        request = uuid.uuid4().hex
        message = {
            "request_id": request,
            "image_id": "page.jpg",
            "original_size": list(CANVAS[kind]),
            "padding_info": [0, 0, 0, 0],
            "preprocessed_img_shm_info": put(image),
            "preprocessed_mask_shm_info": put(mask),
            "is_long": kind is Kind.LONG,
        }
        return request, json.dumps(message).encode()


def put(array: np.ndarray) -> dict[str, object]:
    """A new segment with the content of a uint8 array, as messages describe it."""
    name = f"{PREFIX}{uuid.uuid4().hex}"
    (DEV_SHM / name).write_bytes(array.tobytes())
    shape = list(array.shape)
    return {"shm_name": name, "shape": shape, "dtype": "uint8", "size": array.nbytes}
