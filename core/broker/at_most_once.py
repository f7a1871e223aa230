"""The queues for DELIVERY=at_most_once: a crash loses what is computed and what is read ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from core.broker.no_list import NO_LIST_PAUSE_S
from core.broker.queues import Queues
from core.broker.redis_connections import Oversized
from core.broker.waiter import SHORT_BLOCK_S
from core.claims import Claim
from core.keys import Kind


class AtMostOnceQueues(Queues):
    """The two queues with plain pops: a claimed job is in this process only.

    A job that waits for another attempt is in Redis. A call that ends a claim also removes the
    claim's number, so that repeating it after a lost reply does not duplicate the job.
    """

    keeps_payload = False

    async def wait_for_either(self, first: Kind) -> list[Claim]:
        kinds = [first, first.other]
        try:
            reply = await self._pop(kinds, self._waiters[first].longest_s)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            # One of the keys is not a list; the other queue must still be served.
            for kind in kinds:
                pop = self._pop([kind], SHORT_BLOCK_S)
                if reply := await self._unless_no_list(kind, pop, NO_LIST_PAUSE_S):
                    break
        if reply is None:
            return []
        kind = next(kind for kind in kinds if self.settings.queue(kind) == reply[0].decode())
        if isinstance(reply[1], Oversized):
            await self._refuse(kind, "", reply[1])
            return []
        return self._take_up(kind, [reply[1]])

    async def reconcile(self) -> list[Claim]:
        return []

    async def _pop(self, kinds: Sequence[Kind], timeout_s: float) -> Any:
        """Name and payload of the first queue that has a job; None if none has in time."""
        names = [self.settings.queue(kind) for kind in kinds]
        return await self._waiters[kinds[0]].wait("BLPOP", *names, timeout_s)
