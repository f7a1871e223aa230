"""The demo's jobs: all submitted at once, collected as they come, taken back on the way out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import redis

from core import keys
from core.broker.connection import sync_client
from core.client import Client, Submission, SubmitError
from core.config import Settings
from core.errors import WorkerError
from core.pixels import shm
from demo.lettering import Picture
from demo.scenes import Scene

POLL_S = 0.02

#: Seconds without any result after which the remaining jobs are given up.
STALL_S = 600.0

#: Seconds to fetch a result that has been seen; only runs out if another program took it.
FETCH_S = 5.0


class Stalled(Exception):
    """The worker lives, but no results come; the message says what to look at."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a scene: a picture (H×W×3 BGR) or a reason; `seconds` since submission."""

    scene: Scene
    seconds: float
    after: Picture | None
    error: str = ""


class Jobs:
    """Submits scenes and collects their results.

    Use as a context manager: on the way out jobs that are not done are taken back and all their
    segments unlinked, those with results too: `shm_name_prefix` must be the demo's own. The
    worker must have been stopped by then, or it would still use them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._redis = sync_client(settings.redis_url)
        self._pending: dict[str, tuple[Scene, Submission, float]] = {}

    def submit(self, scene: Scene) -> None:
        """Put a scene on its queue; raises SubmitError."""
        began = time.monotonic()
        submission = self._client.submit(
            scene.before, scene.mask, scene.kind, f"{scene.name}-before.png"
        )
        self._pending[scene.name] = (scene, submission, began)

    def collect(self, check_worker: Callable[[], None]) -> Iterator[Outcome]:
        """Results in the order in which they come, until there is one for every job.

        `check_worker` is called again and again and raises if waiting has become pointless.
        Raises Stalled after STALL_S without a result.
        """
        last = time.monotonic()
        while self._pending:
            for scene, submission, began in list(self._pending.values()):
                if self._redis.exists(keys.result(submission.request_id)):
                    last = time.monotonic()
                    yield self._fetch(scene, submission, last - began)
            if time.monotonic() - last > STALL_S:
                raise Stalled(
                    f"no result for {STALL_S:g} s, {len(self._pending)} are missing "
                    f"({', '.join(self._pending)}). Does another program take results from this "
                    "Redis? The worker's log says what it did"
                )
            check_worker()
            time.sleep(POLL_S)

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *exception: object) -> None:
        for _, submission, _ in self._pending.values():
            with contextlib.suppress(WorkerError, redis.RedisError, OSError):
                self._client.wait(submission, timeout_s=0)  # fetched, or taken off its queue
            _unlink(*submission.segments)
        self._pending.clear()
        # What a worker that was killed had written and not yet announced.
        _unlink(*(name for name in shm.names() if name.startswith(self._settings.shm_name_prefix)))
        self._redis.close()
        self._client.__exit__()

    def _fetch(self, scene: Scene, submission: Submission, seconds: float) -> Outcome:
        try:
            after = self._client.wait(submission, FETCH_S)
        except (SubmitError, WorkerError) as error:
            outcome = Outcome(scene, seconds, None, str(error))
        else:
            outcome = Outcome(scene, seconds, after)
        del self._pending[scene.name]
        return outcome


def _unlink(*names: str) -> None:
    for name in names:
        with contextlib.suppress(OSError):
            shm.unlink(name, {os.geteuid()})
