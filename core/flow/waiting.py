"""Moves jobs from the delayed sets to the tail of their queues when they are due."""

from __future__ import annotations

import logging
from typing import Final

from core.broker.connection import Backoff, pause
from core.broker.queues import Queues
from core.broker.redis_errors import REDIS_ERRORS
from core.keys import Kind

log = logging.getLogger(__name__)

#: Longest time between two checks, in seconds: other workers add jobs to these sets too.
LOOK_S: Final = 1.0


async def promote_due_jobs(queues: Queues) -> None:
    """Move due jobs to the tails of their queues, until cancelled.

    Every worker of a queue does this: it costs a call a second, and no job depends on one worker.
    """
    backoff = Backoff()
    while True:
        queues.waits_added.clear()
        try:
            next_s = min([await _promote(queues, kind) for kind in Kind])
        except REDIS_ERRORS as error:
            queues.link.down("waiting", error)
            await backoff.wait()
            continue
        queues.link.up("waiting")
        backoff.reset()
        await pause(next_s, unless=queues.waits_added)


async def _promote(queues: Queues, kind: Kind) -> float:
    """Move the due jobs of a kind; returns the seconds until the next call."""
    moved, next_s = await queues.promote(kind)
    if moved:
        log.debug("%d %s jobs have waited for another attempt", moved, kind)
    return LOOK_S if next_s is None else min(next_s, LOOK_S)
