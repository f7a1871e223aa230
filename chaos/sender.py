"""The program that sends jobs; it may be killed at any moment and goes on where it was.

Its journal has a line `begun N` before anything of a job is there, and `sent N` once Redis has
confirmed it. A job without the second line may or may not have been sent.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import redis

from chaos.jobs import QUEUES, Case, Jobs

#: The sender waits while so many jobs are queued: disturbances are to hit jobs in progress.
ENOUGH = 100


class Journal:
    """The jobs that were begun and sent, in a file that survives the program."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, word: str, number: int) -> None:
        """Append a line, all of it or nothing."""
        os.write(self._file, f"{word} {number}\n".encode())

    def read(self) -> tuple[set[int], set[int]]:
        """The numbers of the jobs that were begun, and of those that were sent."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        begun, sent = (
            {int(number) for word, number in lines if word == wanted}
            for wanted in ("begun", "sent")
        )
        return begun, sent


class Sender:
    """Sends job after job until SIGTERM."""

    def __init__(self, client: Any, jobs: Jobs, journal: Journal, rate: float) -> None:
        self._redis = client
        self._jobs = jobs
        self._journal = journal
        self._rate = rate
        self._late: dict[int, float] = {}  # jobs whose segments come later, and when
        self._stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def run(self) -> None:
        """Send until stopped; job numbers go on after those of the journal."""
        begun, _ = self._journal.read()
        number = max(begun, default=-1) + 1
        while not self._stopped:
            self._put_late()
            if self._wait_for_room():
                self._send(number)
                number += 1
        while self._late:
            self._put_late()
            time.sleep(0.02)

    def _wait_for_room(self) -> bool:
        time.sleep(1 / self._rate)
        try:
            return bool(sum(self._redis.llen(queue) for queue in QUEUES) < ENOUGH)
        except redis.RedisError:
            self._reconnect()
            return False

    def _put_late(self) -> None:
        for number, at in list(self._late.items()):
            if time.monotonic() >= at:
                del self._late[number]
                self._jobs.put(number)
                self._journal.write("sent", number)

    def _send(self, number: int) -> None:
        case = self._jobs.case(number)
        self._journal.write("begun", number)
        try:
            if case is not Case.LATE:
                self._jobs.put(number)
            self._push(number)
            if case is Case.LATE:
                self._late[number] = time.monotonic() + self._jobs.late_s(number)
                return
            if case is Case.TWICE:
                self._push(number)
            elif case is Case.AGAIN:
                self._jobs.put(number, 1)
                self._push(number, 1)
        except redis.RedisError:
            self._reconnect()
            return
        self._journal.write("sent", number)

    def _push(self, number: int, edition: int = 0) -> None:
        """Send a message; repeat it while the server refuses it."""
        while True:
            try:
                self._redis.rpush(self._jobs.queue(number), self._jobs.payload(number, edition))
            except redis.ResponseError:
                if self._stopped:
                    raise
                self._reconnect()
                time.sleep(0.1)
            else:
                return

    def _reconnect(self) -> None:
        """The server may have become a replica, which keeps its connections."""
        self._redis.connection_pool.disconnect()

    def _stop(self, *_: object) -> None:
        self._stopped = True


def main() -> int:
    """Send jobs until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("tag")
    parser.add_argument("seed", type=int)
    parser.add_argument("journal", type=Path)
    parser.add_argument("rate", type=float)
    options = parser.parse_args()
    with redis.Redis.from_url(options.url, protocol=2, socket_timeout=5, retry=None) as client:
        jobs = Jobs(options.tag, options.seed)
        Sender(client, jobs, Journal(options.journal), options.rate).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
