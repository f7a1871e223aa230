"""Looks at the worker and at Redis every few seconds, for the charts of the last hour."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import Final

from core.admin.renewed import Renewed
from core.broker.connection import sync_client
from core.broker.redis_errors import REDIS_ERRORS
from core.config import Settings
from core.identity import current_identity
from core.recovery.overview import Overview, read_overview
from core.telemetry import Watch
from core.telemetry.tallies import History

log = logging.getLogger(__name__)

SAMPLE_S: Final = 2.0
HISTORY_S: Final = 3600.0

#: Seconds that Redis has to answer.
REDIS_TIMEOUT_S: Final = 2.0

#: Seconds for which the last answer of Redis counts: a sample takes a pause and a few commands.
STALE_S: Final = 15.0

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
        self._redis = Renewed(watch, lambda: sync_client(settings, timeout_s=REDIS_TIMEOUT_S))
        self._namespace = current_identity(settings).namespace
        self._stopped = threading.Event()
        self._asking = threading.Lock()
        self._overview: Overview | None = None
        self._asked_at = float("-inf")
        self._answered_at = time.monotonic()  # until the first answer: when it is first due
        self._failure = ""
        self.history = History(COLUMNS, int(HISTORY_S / SAMPLE_S))

    def stop(self) -> None:
        """End the thread soon."""
        self._stopped.set()

    def overview(self) -> Overview | None:
        """What Redis says now, or said within the last second; None if it does not answer.

        May take a few times REDIS_TIMEOUT_S.
        """
        with self._asking:
            if time.monotonic() - self._asked_at > FRESH_S:
                try:
                    self._overview = read_overview(self._redis(), self._settings, self._namespace)
                    self._failure = ""
                except REDIS_ERRORS as error:
                    self._redis.renew()
                    self._overview = None
                    self._failure = str(error) or type(error).__name__
                self._asked_at = self._answered_at = time.monotonic()
            return self._overview

    def complaint(self) -> str:
        """What is wrong with Redis as it was last asked; empty if it answered. Returns at once."""
        if failure := self._failure:
            return f"Redis does not answer: {failure}"
        if (silent_s := time.monotonic() - self._answered_at) > STALE_S:
            return f"Redis has not answered for {silent_s:.0f} s"
        return ""

    def run(self) -> None:
        done = failed = 0
        with suppress(Exception):  # told with the first sample
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
