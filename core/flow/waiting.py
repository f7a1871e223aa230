"""Jobs that wait for another try wait in Redis; here they are put back to their queues in time."""

from __future__ import annotations

import logging
from typing import Final

from core.broker.connection import Backoff, pause
from core.broker.queues import Queues
from core.broker.redis_errors import REDIS_ERRORS
from core.keys import Kind

log = logging.getLogger(__name__)

#: Longest time between two looks, in seconds: other workers' jobs wait there too.
LOOK_S: Final = 1.0


async def promote_due_jobs(queues: Queues) -> None:
    """Move jobs that have waited long enough to the tails of their queues, until cancelled.

    Every worker of a queue does so: it costs a call a second, and no job depends on one worker.
    """
    backoff = Backoff()
    while True:
        queues.waits_added.clear()
        try:
            next_s = min([await _put_back(queues, kind) for kind in Kind])
        except REDIS_ERRORS as error:
            queues.link.down("waiting", error)
            await backoff.wait()
            continue
        queues.link.up("waiting")
        backoff.reset()
        await pause(next_s, unless=queues.waits_added)


async def _put_back(queues: Queues, kind: Kind) -> float:
    """Seconds until it is to be called again."""
    moved, next_s = await queues.promote(kind)
    if moved:
        log.debug("%d %s jobs have waited for another try", moved, kind)
    return LOOK_S if next_s is None else min(next_s, LOOK_S)
