"""Redis servers of both supported ages, for tests of scripts without a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from core.config import Settings
from harness.redis_server import RedisClient, RedisServer
from harness.workers import OWN


@pytest.fixture(params=["server", "oldest_server"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings for the newest server and the oldest in turn."""
    server: RedisServer = request.getfixturevalue(request.param)
    return Settings(_env_file=None, redis_url=server.url, shm_name_prefix=f"img_shm_{OWN}")


@pytest.fixture
def raw(settings: Settings, shm_baseline: None) -> Iterator[RedisClient]:
    """A client of that server, which is empty before and after."""
    with redis.Redis.from_url(settings.redis_url, protocol=2) as client:
        client.flushall()
        yield client
        client.config_set("maxmemory", 0)
        client.flushall()
