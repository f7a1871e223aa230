"""Commands of worker.py on the tests' server, in this process."""

from __future__ import annotations

import pytest

from harness.redis_server import RedisServer
from tests.core.support import Done, Run, command


@pytest.fixture
def run(server: RedisServer) -> Run:
    def run(*words: object, **environment: object) -> Done:
        return command(*words, **{"REDIS_URL": server.url, **environment})

    return run
