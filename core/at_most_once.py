"""The queues without a net, for DELIVERY=at_most_once; and which ones the settings ask for."""

from __future__ import annotations

from typing import cast

from core.config import Delivery, Settings
from core.identity import Identity
from core.keys import Kind
from core.queues import Claim, Queues


class AtMostOnceQueues(Queues):
    """The two queues with plain pops: a claimed job is nowhere but in this process."""

    fenced = False

    async def _take(self, kind: Kind, count: int, joining: Claim | None) -> list[bytes]:
        taken = await self._scripts["pop"]([self.settings.queue(kind)], [count])
        return cast("list[bytes]", taken)

    async def _block(self, kind: Kind, timeout_s: float) -> bytes | None:
        reply = await self._waiters[kind].wait("BLPOP", self.settings.queue(kind), timeout_s)
        return None if reply is None else cast(bytes, reply[1])

    async def wait_for_either(self, first: Kind) -> list[Claim]:
        names = [self.settings.queue(kind) for kind in (first, first.other)]
        reply = await self._waiters[first].wait("BLPOP", *names, self._waiters[first].longest_s)
        if reply is None:
            return []
        kind = first if reply[0].decode() == names[0] else first.other
        return self._hold(kind, [reply[1]])

    async def reconcile(self) -> list[Claim]:
        return []


def open_queues(settings: Settings, identity: Identity) -> Queues:
    """The queues with the configured delivery."""
    if settings.delivery is Delivery.AT_MOST_ONCE:
        return AtMostOnceQueues(settings, identity)
    return Queues(settings, identity)
