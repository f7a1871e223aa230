"""Scenarios of one worker's queues on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from core import keys
from core.broker.open import open_queues
from core.broker.queues import Queues
from core.claims import Claim
from core.config import Settings
from core.errors import BadMessage
from core.identity import Identity
from core.keys import Kind
from harness.redis_server import RedisClient

ME = Identity("host-1-0a0b0c0d", "boot-1", "host", 1, 0)


OTHER = Identity("host-2-0a0b0c0d", "boot-1", "host", 2, 0)


PROCESSING = keys.processing(ME.worker, Kind.LONG)


ERROR = BadMessage("bad_json", "the message is not JSON")


def settings_of(raw: RedisClient, **changes: Any) -> Settings:
    port = raw.connection_pool.connection_kwargs["port"]
    return Settings(_env_file=None, **{"redis_url": f"redis://127.0.0.1:{port}", **changes})


@asynccontextmanager
async def opened(
    raw: RedisClient, identity: Identity = ME, **changes: Any
) -> AsyncIterator[Queues]:
    queues = open_queues(settings_of(raw, **changes), identity)
    try:
        yield queues
    finally:
        await queues.close()


#: What workers note of themselves and of each other.
NOTES = {keys.CREWS.encode(), keys.workers("boot-1").encode(), keys.claims(ME.worker).encode()}


def kept(raw: RedisClient) -> list[bytes]:
    """All keys but these notes."""
    return sorted(key for key in raw.scan_iter() if key not in NOTES)


def run(raw: RedisClient, scenario: Callable[[Queues], Awaitable[None]], **changes: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), opened(raw, **changes) as queues:
            await scenario(queues)

    asyncio.run(main())


async def claim_one(queues: Queues) -> Claim:
    (claim,) = await queues.take(Kind.LONG, 1)
    return claim
