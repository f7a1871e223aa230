"""What this process has done and is doing.

The worker's loops and threads write into one `Watch`; metrics, health and the status page read
it, in threads of their own. A note costs microseconds and never fails.
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

#: Without a sign of life for so long, in seconds, a loop counts as dead. The claiming loop turns
#: over every 2 s when idle; the slowest honest turn waits out a Redis time-out and a backoff.
STALE_S: Final = 24.0

#: Seconds that the model may take to load, from a slow disk and with kernels to be compiled.
LOADING_STALE_S: Final = 600.0

#: Seconds within which each job of a stage must be read, written, committed or unlinked. On an
#: overloaded machine one takes seconds.
STAGE_STALE_S: Final = 120.0


class Phase(StrEnum):
    """Where the worker is in its life."""

    LOADING = "loading the model"
    CONNECTING = "waiting for Redis"
    SERVING = "serving"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class BatchNote:
    """A batch that is done with. `at` is in unix seconds, durations are in seconds."""

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
    """A job's failed try. `at` is in unix seconds; `request_id` is empty where none is known."""

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
    """One worker's record. Times without a unit in their name are time.monotonic()."""

    phase: Phase = Phase.LOADING
    worker: str = ""
    started_at: float = field(default_factory=time.time)  # unix seconds
    model: str = ""  # device and precision
    admin_port: int = 0  # where the admin server listens; 0: nowhere
    in_flight: Callable[[], int] = lambda: 0
    half_fallbacks: Callable[[], int] = lambda: 0

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind, outcome
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind, reason
    recovered: Counter[str] = field(default_factory=Counter)  # by kind
    reconnections: int = 0
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
        self._stages_begun: dict[str, float] = {}  # by name: when it last made progress
        self._made_at = self._claimed_at = self._looped_at = time.monotonic()
        self._redis_failed_at: float | None = None
        self._redis_changed_at = float("-inf")  # failed, or came back

    def serving(self, worker: str, in_flight: Callable[[], int]) -> None:
        """The worker takes jobs from now on; `in_flight` tells how many it has in hand."""
        self.worker, self.in_flight = worker, in_flight
        self.claim_loop_alive()
        self.event_loop_alive()
        self.phase = Phase.SERVING

    # -- signs of life --------------------------------------------------------------------------

    def claim_loop_alive(self) -> None:
        """The claiming loop has turned over."""
        self._claimed_at = time.monotonic()

    def event_loop_alive(self) -> None:
        """The event loop has come round."""
        self._looped_at = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage does something that must not take long; one of a name at a time.

        Not for waits that may last: for Redis, for room in shared memory, for the network.
        """
        self._stages_begun[name] = time.monotonic()
        try:
            yield
        finally:
            self._stages_begun.pop(name, None)

    def progressed(self, name: str) -> None:
        """A stage is done with one of several jobs; to be called from any thread."""
        if name in self._stages_begun:
            self._stages_begun[name] = time.monotonic()

    def trouble(self) -> str:
        """Why this process should be replaced by a new one; empty if it is alive.

        The claiming loop may rest while a batch or a stage is under way (INFERENCE_TIMEOUT_S ends
        an inference that hangs, and a stage that does is told by its name) and while Redis is away.
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
        """Something keeps this worker from its jobs, until `clear_obstacle` with the same name.

        It counts once it has lasted `after_s` seconds; `reason` is a sentence for people.
        """
        since = self._obstacles[name][0] if name in self._obstacles else time.monotonic() + after_s
        self._obstacles[name] = (since, reason)

    def clear_obstacle(self, name: str) -> None:
        """It is over."""
        self._obstacles.pop(name, None)

    def obstacle(self) -> str:
        """What keeps this worker from its jobs, the oldest first; empty if nothing does."""
        now = time.monotonic()
        return next((why for since, why in sorted(self._obstacles.values()) if since <= now), "")

    def redis_failed(self) -> None:
        """An operation on Redis failed; it is tried again."""
        self._redis_failed_at = self._redis_changed_at = time.monotonic()

    def redis_back(self) -> None:
        """Redis can be used again after an outage."""
        self._redis_failed_at = None
        self._redis_changed_at = time.monotonic()
        self.reconnections += 1

    # -- batches and jobs -----------------------------------------------------------------------

    def batch_started(self) -> None:
        """A batch is in the network's hands, from now until `batch_done`."""
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
        now = self._claimed_at = time.monotonic()  # from here on the claiming loop has to show
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
        """A try of a job has failed: it is tried again, or dead."""
        request_id, image_id = request or ("", "")
        note = FailureNote(time.time(), kind, request_id, image_id, reason, error, attempts, dead)
        with self.lock:
            self.failed.append(note)
            self.failures[kind, reason] += 1
            self.jobs[kind, "dead" if dead else "retried"] += 1

    def job_lost(self, kind: str) -> None:
        """A finished job turned out to be another worker's."""
        with self.lock:
            self.jobs[kind, "lost"] += 1

    def job_given_back(self, kind: str) -> None:
        """A job was put back without an attempt, for a fault that was not its own."""
        with self.lock:
            self.jobs[kind, "given_back"] += 1

    def job_superseded(self, kind: str) -> None:
        """A job came after the result of a newer submission of its request."""
        with self.lock:
            self.jobs[kind, "superseded"] += 1

    def jobs_recovered(self, kind: str, count: int) -> None:
        """Jobs of a dead worker were put back."""
        with self.lock:
            self.recovered[kind] += count

    # -- in short -------------------------------------------------------------------------------

    def total(self, outcome: str) -> int:
        """How many jobs had an outcome: done, retried, dead or lost."""
        with self.lock:
            return sum(count for (_, had), count in self.jobs.items() if had == outcome)

    def per_minute(self) -> float:
        """Jobs done in the last minute."""
        with self.lock:
            return self.latest.count(time.monotonic()) * 60 / WINDOW_S

    def in_brief(self) -> dict[str, str | int | float]:
        """What the heartbeat says of it."""
        return {
            "model": self.model,
            "admin_port": self.admin_port,
            "done": self.total("done"),
            "dead": self.total("dead"),
            "per_minute": round(self.per_minute(), 2),
        }


#: The record of this process.
watch = Watch()
