"""Dead workers and passes of a reaper, called by hand."""

from __future__ import annotations

import asyncio
import json
import os

import numpy as np

from core import keys
from core.broker.connection import Link
from core.config import Settings
from core.identity import Identity, current_identity
from core.keys import Kind
from core.pixels import shm
from core.recovery.recovery import Recovery
from harness.redis_server import RedisClient

UIDS = frozenset({os.geteuid()})


def reap(settings: Settings) -> Identity:
    """One pass of a reaper in this namespace."""
    me = current_identity(settings.queues)

    async def one_pass() -> None:
        recovery = Recovery(settings, me, Link(settings.redis_url))
        await recovery.recover()
        await recovery.close()

    asyncio.run(one_pass())
    return me


def crashed(settings: Settings, raw: RedisClient, *payloads: bytes, kind: str = "long") -> str:
    """A worker without a heartbeat that has worked on some payloads; its id."""
    identity = current_identity(settings.queues)
    raw.sadd(keys.workers(identity.namespace), identity.worker)
    raw.rpush(keys.processing(identity.worker, Kind(kind)), *payloads)
    for number, payload in enumerate(payloads):
        record = {str(number): keys.sha1(payload), f"{number}:work": keys.sha1(payload)}
        raw.hset(keys.claims(identity.worker), mapping=record)
    return identity.worker


def kept(raw: RedisClient) -> list[bytes]:
    """All keys but what workers note of each other, which lasts."""
    return sorted(key for key in raw.scan_iter() if key != keys.CREWS.encode())


def write_segment(name: str) -> str:
    shm.write(name, np.zeros(4, np.uint8), 0o600)
    return name


def request(name: str) -> bytes:
    return json.dumps({"request_id": name}).encode()
