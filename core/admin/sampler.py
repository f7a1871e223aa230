"""Samples the worker and Redis every few seconds, for the charts of the last hour."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import redis

from core.admin.renewed import Renewed
from core.broker.redis_errors import REDIS_ERRORS
from core.identity import current_namespace
from core.keys import Kind
from core.recovery.overview import Overview, read_overview
from core.telemetry import Watch
from core.telemetry.tallies import History

log = logging.getLogger(__name__)

SAMPLE_S: Final = 2.0
HISTORY_S: Final = 3600.0

#: Seconds after which Redis' last answer is too old: a sample takes a pause and a few commands.
STALE_S: Final = 15.0

#: Seconds for which an answer of Redis is reused.
FRESH_S: Final = 1.0

COLUMNS: Final = (
    *("at", "backlog_long", "backlog_short", "processing", "dead_jobs"),
    *("done", "failed", "p50_s", "p95_s"),
)


class Sampler(threading.Thread):
    """A thread that records the history; other threads may query Redis through it.

    A row has `at` in unix seconds; jobs waiting, claimed and dead; jobs done and failed attempts of
    this worker since the previous row; and percentiles of a job's time over the last minute. Values
    that Redis did not provide are None.
    """

    def __init__(
        self,
        connect: Callable[[], redis.Redis],
        queues: Mapping[Kind, str],
        result_queue: str,
        watch: Watch,
    ) -> None:
        super().__init__(name="sampler", daemon=True)
        self._queues = queues
        self._result_queue = result_queue
        self._watch = watch
        self._redis = Renewed(watch, connect)
        self._namespace = current_namespace()
        self._stopped = threading.Event()
        self._asking = threading.Lock()
        self._overview: Overview | None = None
        self._asked_at = float("-inf")
        self._answered_at = time.monotonic()  # counts as an answer until the first one
        self._failure = ""
        self.history = History(COLUMNS, int(HISTORY_S / SAMPLE_S))

    def stop(self) -> None:
        """Make the thread end soon."""
        self._stopped.set()

    def overview(self) -> Overview | None:
        """The overview of Redis, at most FRESH_S old; None if Redis does not answer.

        May block for a few times the timeout of `connect`'s client.
        """
        with self._asking:
            if time.monotonic() - self._asked_at > FRESH_S:
                try:
                    self._overview = read_overview(
                        self._redis(), self._queues, self._result_queue, self._namespace
                    )
                    self._failure = ""
                except REDIS_ERRORS as error:
                    self._redis.renew()
                    self._overview = None
                    self._failure = str(error) or type(error).__name__
                self._asked_at = self._answered_at = time.monotonic()
            return self._overview

    def complaint(self) -> str:
        """The error of the last query of Redis; empty if it answered. Returns at once."""
        if failure := self._failure:
            return f"Redis does not answer: {failure}"
        if (silent_s := time.monotonic() - self._answered_at) > STALE_S:
            return f"Redis has not answered for {silent_s:.0f} s"
        return ""

    def run(self) -> None:
        done = failed = 0
        with suppress(Exception):  # logged with the first sample
            self.overview()
        while not self._stopped.wait(SAMPLE_S):
            try:
                done, failed = self._sample(done, failed)
            except Exception:
                log.exception("no sample for the status page")

    def _sample(self, done_before: int, failed_before: int) -> tuple[int, int]:
        overview, watch = self.overview(), self._watch
        done = watch.total("done")
        failed = watch.total("dead") + watch.total("retried")
        with watch.lock:
            p50, p95 = watch.latest.percentiles(time.monotonic(), 0.5, 0.95)
        self.history.add(
            at=round(time.time(), 1),
            backlog_long=overview.backlog["long"] if overview else None,
            backlog_short=overview.backlog["short"] if overview else None,
            processing=overview.processing if overview else None,
            dead_jobs=overview.dead if overview else None,
            done=done - done_before,
            failed=failed - failed_before,
            p50_s=p50,
            p95_s=p95,
        )
        return done, failed
