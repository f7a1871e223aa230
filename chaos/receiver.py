"""The program that takes results; it may be killed at any moment and goes on where it was.

A result is taken over in one script, which leaves a note in Redis: what was fetched and not yet
looked at. Its verdict is there before the segment is unlinked, and the note until after that.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from typing import Any

import numpy as np
import redis

from chaos.jobs import Jobs
from harness.wire import DEV_SHM

#: list: results that were taken over and not finished with.
FETCHED = "chaos:fetched"

#: hash: name of a result segment → JSON of its `request`, which `edition` of it the pixels are of,
#: what its `problem` is, if any, and its `order`: the number of verdicts before it.
VERDICTS = "chaos:verdicts"

TAKE_OVER = """
local info = redis.call('HGET', KEYS[1], 'inpaint_shm_info')
if not info then
  return 0
end
redis.call('RPUSH', KEYS[2], cjson.encode({KEYS[1], info}))
redis.call('DEL', KEYS[1])
return 1
"""


class Receiver:
    """Takes results over and checks their pixels until SIGTERM."""

    def __init__(self, client: Any, jobs: Jobs) -> None:
        self._redis = client
        self._jobs = jobs
        self._take_over = client.register_script(TAKE_OVER)
        self._stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def run(self) -> None:
        """Consume until stopped, through all outages."""
        while not self._stopped:
            try:
                self._round()
            except redis.RedisError:
                # The server may have become a replica, which keeps its connections.
                self._redis.connection_pool.disconnect()
                time.sleep(0.1)

    def _round(self) -> None:
        while entry := self._redis.lindex(FETCHED, 0):
            self._finish(entry)
        for key in self._redis.scan_iter("inpainting_result:*", 1000):
            self._take_over([key, FETCHED])
        # Results are left lying for a while now and then, so that newer ones replace them.
        time.sleep(random.choice([0.01, 0.05, 0.5]))  # noqa: S311 - nothing is secret here

    def _finish(self, entry: bytes) -> None:
        key, description = json.loads(entry)
        info = json.loads(description)
        request, name = key.partition(":")[2], info["shm_name"]
        if not self._redis.hexists(VERDICTS, name):
            problem, edition = self._examine(request, info)
            verdict = {
                "request": request,
                "problem": problem,
                "edition": edition,
                "order": self._redis.hlen(VERDICTS),
            }
            self._redis.hset(VERDICTS, name, json.dumps(verdict))
        (DEV_SHM / name).unlink(missing_ok=True)
        self._redis.lrem(FETCHED, 1, entry)

    def _examine(self, request: str, info: dict[str, Any]) -> tuple[str, int | None]:
        """What is wrong with a result (usually nothing), and the edition that it shows."""
        try:
            content = (DEV_SHM / info["shm_name"]).read_bytes()
        except FileNotFoundError:
            return "the segment is missing", None
        picture = np.frombuffer(content, info["dtype"]).reshape(info["shape"])
        number = self._jobs.number(request)
        for edition in (0, 1):
            if np.array_equal(picture, self._jobs.expected(number, edition)):
                return "", edition
        return "other pixels", None

    def _stop(self, *_: object) -> None:
        self._stopped = True


def main() -> int:
    """Take results until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("tag")
    parser.add_argument("seed", type=int)
    options = parser.parse_args()
    with redis.Redis.from_url(options.url, protocol=2, socket_timeout=5, retry=None) as client:
        Receiver(client, Jobs(options.tag, options.seed)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
