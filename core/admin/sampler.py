"""Looks at the worker and at Redis every few seconds, for the charts of the last hour."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from core.config import Settings
from core.connection import REDIS_ERRORS, sync_client
from core.identity import current_identity
from core.overview import Overview, read_overview
from core.telemetry import Watch
from core.telemetry.tallies import History

log = logging.getLogger(__name__)

SAMPLE_S: Final = 2.0
HISTORY_S: Final = 3600.0

#: Seconds that Redis has to answer: a probe waits for it.
REDIS_TIMEOUT_S: Final = 2.0

#: Seconds for which an answer of Redis counts as fresh.
FRESH_S: Final = 1.0

COLUMNS: Final = (
    *("at", "backlog_long", "backlog_short", "processing", "dead_jobs"),
    *("done", "failed", "p50_s", "p95_s"),
)


class Sampler(threading.Thread):
    """A thread that keeps the history; others may ask it what Redis says now.

    Rows are `at` in unix seconds, jobs waiting, in hand and dead, jobs done and failed tries of
    this worker since the row before, and percentiles of a job's time over the last minute. What
    Redis did not tell is None.
    """

    def __init__(self, settings: Settings, watch: Watch) -> None:
        super().__init__(name="sampler", daemon=True)
        self._settings = settings
        self._watch = watch
        self._redis = sync_client(settings, timeout_s=REDIS_TIMEOUT_S)
        self._namespace = current_identity(settings).namespace
        self._stopped = threading.Event()
        self._asking = threading.Lock()
        self._overview: Overview | None = None
        self._asked_at = float("-inf")
        self.complaint = ""
        self.history = History(COLUMNS, int(HISTORY_S / SAMPLE_S))

    def stop(self) -> None:
        """End the thread soon."""
        self._stopped.set()

    def overview(self) -> Overview | None:
        """What Redis says now, or said within the last second; None if it does not answer."""
        with self._asking:
            if time.monotonic() - self._asked_at > FRESH_S:
                try:
                    self._overview = read_overview(self._redis, self._settings, self._namespace)
                    self.complaint = ""
                except REDIS_ERRORS as error:
                    self._overview = None
                    self.complaint = f"Redis does not answer: {error}"
                self._asked_at = time.monotonic()
            return self._overview

    def run(self) -> None:
        done = failed = 0
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
