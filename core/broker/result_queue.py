"""The result queue: each outcome is pushed by the script that publishes it in the result hash."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Final

from core.config import REQUEST_ID, Settings
from core.keys import Kind
from core.telemetry import watch

log = logging.getLogger(__name__)

#: Seconds between two lines in the log on outcomes that were dropped.
REMINDER_S: Final = 60.0


class ResultQueue:
    """What the scripts need to know of RESULT_QUEUE, and what they report of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._remind_at = 0.0

    def key(self, request_id: str) -> str | None:
        """The key of the queue that has the outcomes of a request; None without RESULT_QUEUE."""
        template = self._settings.result_queue
        return template.replace(REQUEST_ID, request_id) if template else None

    def push(self, request: tuple[str, str] | None, kind: Kind, reason: str = "") -> dict[str, Any]:
        """The keys and arguments of lua/prelude/outcomes.lua.

        `request` is the request and image id, None if they are unknown: then nothing is pushed.
        Without a `reason`, the job is done.
        """
        if request is None or not self._settings.result_queue:
            return {"result_queue": None, "outcome": "", "most_outcomes": 0, "queue_ms": 0}
        outcome = {
            "request_id": request[0],
            "image_id": request[1],
            "status": "failed" if reason else "done",
            "reason": reason or None,
            "is_long": kind is Kind.LONG,
        }
        is_shared = REQUEST_ID not in self._settings.result_queue
        ttl_ms = 0 if is_shared else self._settings.result_ttl_ms
        return {
            "result_queue": self.key(request[0]),
            "outcome": json.dumps(outcome),
            "most_outcomes": self._settings.result_queue_max,
            "queue_ms": ttl_ms,
        }

    def note(self, dropped: int) -> None:
        """Count and log what `push_outcome` returns: outcomes that a receiver will not get."""
        if not dropped:
            return
        watch.outcomes_dropped(abs(dropped))
        if time.monotonic() < self._remind_at:
            return
        self._remind_at = time.monotonic() + REMINDER_S
        name = self._settings.result_queue
        if dropped < 0:
            log.error(
                "outcomes are not pushed: RESULT_QUEUE %r in redis is not a list; rename or delete "
                "that key",
                name,
            )
        else:
            log.warning(
                "RESULT_QUEUE %r has more than RESULT_QUEUE_MAX=%d outcomes: the oldest are "
                "dropped, their hashes stay; start a receiver, or unset RESULT_QUEUE",
                name,
                self._settings.result_queue_max,
            )
