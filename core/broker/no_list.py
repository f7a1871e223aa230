"""Queues whose key is not a list, because another program uses it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Final, TypeVar

from redis.exceptions import ResponseError

from core.keys import Kind

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")

#: Seconds between two waits for jobs of such a queue, and between two lines in the log.
NO_LIST_PAUSE_S: Final = 0.05
REMINDER_S: Final = 60.0


class UnlessNoList:
    """Awaits claims. The error of one queue must not stop the other queue."""

    def __init__(self, queues: Mapping[Kind, str], redis: Any) -> None:
        self._queues = queues
        self._redis = redis
        self._remind_at = dict.fromkeys(Kind, 0.0)
        #: Whether the last claim failed with WRONGTYPE although the queue was a list.
        self._was_list = dict.fromkeys(Kind, False)

    async def __call__(
        self, kind: Kind, reply: Awaitable[Reply], pause_s: float = 0.0
    ) -> Reply | None:
        """The reply; None, after a pause, if the queue's key is not a list."""
        try:
            answer = await reply
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):  # Redis 6.2 prefixes the script's name
                raise
            if await self._redis.type(self._queues[kind]) in (b"list", b"none"):
                # Perhaps it has just become a list. If it fails again, another key is at fault.
                if self._was_list[kind]:
                    raise
                self._was_list[kind] = True
                return None
        else:
            self._was_list[kind] = False
            return answer
        if time.monotonic() >= self._remind_at[kind]:
            self._remind_at[kind] = time.monotonic() + REMINDER_S
            log.error(
                "no %s jobs are taken: %r in redis is not a list; rename or delete that key",
                kind,
                self._queues[kind],
            )
        await asyncio.sleep(pause_s)
        return None
