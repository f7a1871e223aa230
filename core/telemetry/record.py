"""The record of this process: what it has done and is doing.

The worker's loops and threads write into one `Watch`. Metrics, health and the status page read it,
in their own threads. A write takes microseconds and never fails.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from core.telemetry.previews import Previews
from core.telemetry.tallies import DURATIONS, SIZES, Durations, Histogram

RECENT: Final = 50

#: Window of the rates and percentiles, in seconds.
WINDOW_S: Final = 60.0

#: Seconds without a sign of life after which a loop counts as dead. The claim loop reports every 2
#: s when idle; its slowest legitimate iteration is a Redis timeout and a backoff.
STALE_S: Final = 24.0

#: Seconds that loading the model may take, from a slow disk and with kernels to compile.
LOADING_STALE_S: Final = 600.0

#: Seconds within which each job of a stage must be read, written, committed or unlinked. On an
#: overloaded machine one job takes seconds.
STAGE_STALE_S: Final = 120.0


class Phase(StrEnum):
    """The phase of the worker's life."""

    LOADING = "loading the model"
    CONNECTING = "waiting for Redis"
    SERVING = "serving"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class BatchNote:
    """A finished batch. `at` is in unix seconds, durations are in seconds."""

    at: float
    kind: str
    size: int
    delivered: int
    load_s: float
    infer_s: float
    store_s: float
    total_s: float
    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FailureNote:
    """A job's failed attempt. `at` is in unix seconds; `request_id` is empty if unknown."""

    at: float
    kind: str
    request_id: str
    image_id: str
    reason: str
    error: str
    attempts: int
    dead: bool


@dataclass
class Watch:
    """One worker's record. Times are time.monotonic() unless noted otherwise."""

    phase: Phase = Phase.LOADING
    worker: str = ""
    started_at: float = field(default_factory=time.time)  # unix seconds
    model: str = ""  # device and precision
    lacks_gpu: bool = False  # USE_CUDA asks for one
    admin_port: int = 0  # of the admin server; 0: none
    in_flight: Callable[[], int] = lambda: 0
    half_fallbacks: Callable[[], int] = lambda: 0
    dropped_log_lines: Callable[[], int] = lambda: 0

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind, outcome
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind, reason
    recovered: Counter[str] = field(default_factory=Counter)  # by kind
    reconnections: int = 0
    dropped_outcomes: int = 0
    batch_sizes: dict[str, Histogram] = field(default_factory=dict)
    stages: dict[str, Histogram] = field(default_factory=dict)
    job_durations: dict[str, Histogram] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.batches: deque[BatchNote] = deque(maxlen=RECENT)
        self.failed: deque[FailureNote] = deque(maxlen=RECENT)
        self.latest = Durations(WINDOW_S)
        self.previews = Previews()
        self._obstacles: dict[str, tuple[float, str]] = {}
        self._batches_in_hand = 0
        self._stages_begun: dict[str, float] = {}  # by name: time of its last progress
        self._made_at = self._claimed_at = self._looped_at = time.monotonic()
        self._redis_failed_at: float | None = None
        self._redis_changed_at = float("-inf")  # time of the last failure or recovery

    def serving(self, worker: str, in_flight: Callable[[], int]) -> None:
        """The worker serves from now on; `in_flight` returns the number of its claims."""
        self.worker, self.in_flight = worker, in_flight
        self.claim_loop_alive()
        self.event_loop_alive()
        self.phase = Phase.SERVING

    # -- signs of life --------------------------------------------------------------------------

    def claim_loop_alive(self) -> None:
        """The claim loop has begun another iteration."""
        self._claimed_at = time.monotonic()

    def event_loop_alive(self) -> None:
        """The event loop has run a callback."""
        self._looped_at = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage is running, and must make progress within STAGE_STALE_S; not reentrant.

        Not for waits that may be long: for Redis, for room in shared memory, for the network.
        """
        self._stages_begun[name] = time.monotonic()
        try:
            yield
        finally:
            self._stages_begun.pop(name, None)

    def progressed(self, name: str) -> None:
        """A stage has finished one of several jobs. May be called from any thread."""
        if name in self._stages_begun:
            self._stages_begun[name] = time.monotonic()

    def trouble(self) -> str:
        """Why this process should be replaced by a new one; empty if it is alive.

        The claim loop may pause while a batch or a stage is running and while Redis is away. (A
        hung inference is ended by INFERENCE_TIMEOUT_S, a hung stage is reported by its name.)
        """
        now = time.monotonic()
        if self.phase is Phase.LOADING and (silent_s := now - self._made_at) > LOADING_STALE_S:
            return f"the model has not been loaded after {silent_s:.0f} s"
        if self.phase not in (Phase.SERVING, Phase.STOPPING):
            return ""
        if (silent_s := now - self._looped_at) > STALE_S:
            return f"the event loop has not come round for {silent_s:.0f} s"
        if self.phase is Phase.STOPPING:
            return ""
        if stage := self._hung_stage(now):
            return stage
        if self._batches_in_hand or self._stages_begun:
            return ""
        if self._redis_failed_at is not None and now - self._redis_failed_at < STALE_S:
            return ""
        if (silent_s := now - self._claimed_at) > STALE_S:
            return f"the claiming loop has not turned over for {silent_s:.0f} s"
        return ""

    def _hung_stage(self, now: float) -> str:
        for name, progressed_at in list(self._stages_begun.items()):
            silent_s = now - max(progressed_at, self._redis_changed_at)
            if silent_s > STAGE_STALE_S:
                return f"the stage {name} has made no progress for {silent_s:.0f} s"
        return ""

    # -- why no jobs are taken ------------------------------------------------------------------

    def set_obstacle(self, name: str, reason: str, after_s: float = 0.0) -> None:
        """Note why this worker takes no jobs, until `clear_obstacle` with the same name.

        It counts after `after_s` seconds. `reason` is a sentence for people.
        """
        since = self._obstacles[name][0] if name in self._obstacles else time.monotonic() + after_s
        self._obstacles[name] = (since, reason)

    def clear_obstacle(self, name: str) -> None:
        """The obstacle is gone."""
        self._obstacles.pop(name, None)

    def obstacle(self) -> str:
        """The oldest reason why this worker takes no jobs; empty if there is none."""
        now = time.monotonic()
        return next((why for since, why in sorted(self._obstacles.values()) if since <= now), "")

    def redis_failed(self) -> None:
        """A call to Redis failed and is repeated."""
        self._redis_failed_at = self._redis_changed_at = time.monotonic()

    def redis_back(self) -> None:
        """Redis can be used again after an outage."""
        self._redis_failed_at = None
        self._redis_changed_at = time.monotonic()
        self.reconnections += 1

    # -- batches and jobs -----------------------------------------------------------------------

    def batch_started(self) -> None:
        """A batch is being computed, from now until `batch_done`."""
        with self.lock:
            self._batches_in_hand += 1

    def batch_done(
        self,
        kind: str,
        request_ids: Sequence[str],
        delivered: int,
        *,
        load_s: float,
        infer_s: float,
        store_s: float,
        total_s: float,
    ) -> None:
        """A batch has been stored; `delivered` of its jobs have a result now."""
        size = len(request_ids)
        note = BatchNote(
            time.time(),
            kind,
            size,
            delivered,
            load_s,
            infer_s,
            store_s,
            total_s,
            tuple(request_ids),
        )
        now = self._claimed_at = time.monotonic()  # from now on the claim loop must report again
        with self.lock:
            self._batches_in_hand -= 1
            self.batches.append(note)
            self.jobs[kind, "done"] += delivered
            self.batch_sizes.setdefault(kind, Histogram(SIZES)).add(size)
            for name, seconds in (("load", load_s), ("infer", infer_s), ("store", store_s)):
                self.stages.setdefault(name, Histogram(DURATIONS)).add(seconds)
            durations = self.job_durations.setdefault(kind, Histogram(DURATIONS))
            durations.add(total_s, delivered)
            for _ in range(delivered):
                self.latest.add(now, total_s)

    def job_failed(
        self,
        kind: str,
        request: tuple[str, str] | None,
        reason: str,
        error: str,
        attempts: int,
        *,
        dead: bool,
    ) -> None:
        """An attempt of a job has failed: the job is retried, or dead."""
        request_id, image_id = request or ("", "")
        note = FailureNote(time.time(), kind, request_id, image_id, reason, error, attempts, dead)
        with self.lock:
            self.failed.append(note)
            self.failures[kind, reason] += 1
            self.jobs[kind, "dead" if dead else "retried"] += 1

    def job_ended(self, kind: str, outcome: str) -> None:
        """An attempt ended without a result or failure: lost, given_back, expired, superseded."""
        with self.lock:
            self.jobs[kind, outcome] += 1

    def outcomes_dropped(self, count: int) -> None:
        """Outcomes were dropped from the result queue, or not pushed to it."""
        with self.lock:
            self.dropped_outcomes += count

    def jobs_recovered(self, kind: str, count: int) -> None:
        """Jobs of a dead worker were recovered."""
        with self.lock:
            self.recovered[kind] += count

    # -- summaries ------------------------------------------------------------------------------

    def total(self, outcome: str) -> int:
        """How many jobs had an outcome: done, retried, dead or lost."""
        with self.lock:
            return sum(count for (_, had), count in self.jobs.items() if had == outcome)

    def per_minute(self) -> float:
        """Jobs done in the last minute."""
        with self.lock:
            return self.latest.count(time.monotonic()) * 60 / WINDOW_S

    def in_brief(self) -> dict[str, str | int | float]:
        """The summary that the heartbeat contains."""
        return {
            "model": self.model,
            "admin_port": self.admin_port,
            "done": self.total("done"),
            "dead": self.total("dead"),
            "per_minute": round(self.per_minute(), 2),
        }


#: The record of this process.
watch = Watch()
