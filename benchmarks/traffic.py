"""The programs on either side of a worker, and workers as processes, for benchmarks."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import redis

from core import keys
from core.keys import Kind
from harness import ROOT
from harness.process import Process, python
from harness.wire import DEV_SHM, Json, encode, job_message, write_segment

#: Seconds without any result after which a consumer counts as stuck; loading a network counts.
PATIENCE_S: Final = 120.0

#: Prefix of all segments of this process: by it they are removed at the end.
PREFIX: Final = f"img_shm_bench{os.getpid()}_"

#: (request id, payload)
Job = tuple[str, bytes]


class Consumer:
    """Processes that run one program and serve two queues of their own. A context manager."""

    def __init__(self, url: str, module: str, count: int = 1, **settings: object) -> None:
        self.queues = {kind: f"benchmark:{uuid.uuid4().hex}:{kind}" for kind in Kind}
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": url,
            "LAMA_INFERENCE_LONG_TASKS_QUEUE": self.queues[Kind.LONG],
            "LAMA_INFERENCE_SHORT_TASKS_QUEUE": self.queues[Kind.SHORT],
            "SHM_NAME_PREFIX": f"{PREFIX}r",
            "LOG_LEVEL": "WARNING",
            **{key: str(value) for key, value in settings.items()},
        }
        self._processes = [Process(python("-m", module), environment) for _ in range(count)]

    def __enter__(self) -> Consumer:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(PATIENCE_S)


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
        request = uuid.uuid4().hex
        image_info, mask_info = map(put, self.pictures[kind])
        message = job_message(request, image_info, mask_info, kind.value)
        return request, encode(message)


def put(array: np.ndarray) -> Json:
    """A new segment with the content of an array, as messages describe it."""
    return write_segment(f"{PREFIX}{uuid.uuid4().hex}", array)
