"""The heartbeat continues through every failure."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from core import keys
from core.broker import heartbeat
from core.broker.heartbeat import Heartbeat
from core.config import Settings
from core.identity import current_identity
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until


def test_no_error_ends_the_heartbeat(
    server: RedisServer, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        _env_file=None, redis_url=server.url, heartbeat_interval_s=0.02, heartbeat_ttl_s=1
    )
    identity = current_identity(settings.queues)
    errors = [redis.ConnectionError("gone"), ValueError("a bug"), OSError("no memory")]
    revivals: list[bool] = []

    class Erring(redis.Redis):
        def set(self, *arguments: Any, **options: Any) -> Any:
            if errors:
                raise errors.pop()
            return super().set(*arguments, **options)

    monkeypatch.setattr(
        heartbeat, "sync_client", lambda *_, **__: Erring.from_url(server.url, protocol=2)
    )
    beating = Heartbeat(settings, identity, lambda: revivals.append(True))
    beating.start()
    try:
        wait_until(lambda: client.exists(keys.heartbeat(identity.worker)), "there is a heartbeat")
        assert not errors
        wait_until(lambda: revivals, "the worker is told that it had none")
    finally:
        beating.stop()
