"""What jobs and workers cost Redis, which all of them share: time, memory, and calls.

Sections can be run one by one:

    python -m benchmarks.scaling jobs waiting idle
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from benchmarks.records import KIND, Run, message
from benchmarks.report import Report, add_output_argument, table
from core.broker.queues import Queues
from core.config import Settings
from core.identity import Identity
from harness.redis_server import RedisServer

Rows = list[dict[str, Any]]

#: Seconds of each measurement.
SECONDS: Final = 15.0

#: Jobs that are committed at once: one, a batch, and several batches of several workers.
TOGETHER: Final = (1, 4, 16)

#: Messages whose memory is measured, and how many are pushed at once.
WAITING: Final = 200_000
PUSHED: Final = 10_000

#: Numbers of idle workers, and the jobs that are sent to them one by one.
IDLE: Final = (1, 4, 16)
JOBS: Final = 50

#: More than any rate that is reached.
NO_LIMIT: Final = 1e6


def jobs(url: str) -> Rows:
    """Jobs a second through claim, commit, cleaning up and a receiver, and Redis' time for each."""

    async def measure(together: int) -> dict[str, Any]:
        run = Run(url, NO_LIMIT, together, fetched=True)
        async with redis.asyncio.Redis.from_url(url, protocol=2) as client:
            before, own = await _used(client), time.process_time()
            await run.run(SECONDS, SECONDS)
            used = await _used(client) - before
        commits = run.samples[-1].commits
        return {
            "jobs at once": together,
            "jobs/s": commits / run.samples[-1].seconds,
            "Redis ms a job": 1000 * used / commits,
            "jobs/s of a Redis core": commits / used,
            "worker ms a job": 1000 * (time.process_time() - own) / commits,
        }

    return [asyncio.run(measure(together)) for together in TOGETHER]


def waiting(url: str) -> Rows:
    """Redis' memory for messages that wait."""

    async def measure() -> dict[str, Any]:
        async with redis.asyncio.Redis.from_url(url, protocol=2) as client:
            before = (await client.info("memory"))["used_memory"]
            queue = Settings(_env_file=None).queue(KIND)
            for first in range(0, WAITING, PUSHED):
                await client.rpush(queue, *map(message, range(first, first + PUSHED)))
            used = (await client.info("memory"))["used_memory"] - before
        return {
            "messages": WAITING,
            "bytes of one": len(message(0)),
            "bytes in Redis": used / WAITING,
            "MB a million": used / WAITING,
        }

    return [asyncio.run(measure())]


def idle(url: str) -> Rows:
    """Calls to Redis of idle workers: while nothing comes, and for each job that wakes them."""

    async def measure(count: int) -> dict[str, Any]:
        async with redis.asyncio.Redis.from_url(url, protocol=2) as client:
            await client.flushall()
            crowd = Crowd(url, count)
            async with crowd.waiting():
                quiet = await _during(client, asyncio.sleep(SECONDS / 3))
                woken = await _during(client, crowd.serve(client))
        return {
            "idle workers": count,
            "calls/s of each": quiet.calls / quiet.seconds / count,
            "calls a job": woken.calls / JOBS,
            "Redis ms a job": 1000 * woken.used / JOBS,
            "ms from push to claim": 1000 * woken.seconds / JOBS,
        }

    return [asyncio.run(measure(count)) for count in IDLE]


class Crowd:
    """Workers that wait for jobs of the same queues; each ends a job as soon as it has it."""

    def __init__(self, url: str, count: int) -> None:
        self._settings = Settings(_env_file=None, redis_url=url)
        self._queues = [
            Queues(self._settings, Identity(f"host-{n}-0a0b0c0d", "boot-1", "host", n, 0))
            for n in range(count)
        ]
        self._taken: asyncio.Queue[None] = asyncio.Queue()
        self._stopping = False

    @contextlib.asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """All of them wait."""
        tasks = [asyncio.create_task(self._work(queues)) for queues in self._queues]
        await asyncio.sleep(1)
        yield
        self._stopping = True
        while not all(task.done() for task in tasks):
            for queues in self._queues:
                await queues.unblock()
            await asyncio.sleep(0.01)
        for queues in self._queues:
            await queues.close()

    async def serve(self, client: Any) -> None:
        """Send jobs one by one, each when the last one is taken."""
        for number in range(JOBS):
            await client.rpush(self._settings.queue(KIND), message(number))
            await self._taken.get()

    async def _work(self, queues: Queues) -> None:
        while not self._stopping:
            for claim in await queues.wait_for_either(KIND):
                self._taken.put_nowait(None)
                await queues.supersede(claim)


@dataclass(frozen=True, slots=True)
class Load:
    """What a server did meanwhile: its calls, its processor seconds, the seconds that passed."""

    calls: int
    used: float
    seconds: float


async def _during(client: Any, work: Awaitable[None]) -> Load:
    before, used, began = await _calls(client), await _used(client), time.monotonic()
    await work
    seconds = time.monotonic() - began
    return Load(await _calls(client) - before, await _used(client) - used, seconds)


async def _calls(client: Any) -> int:
    """Commands so far, without those inside scripts."""
    stats = await client.info("commandstats")
    return sum(
        stats[name]["calls"]
        for name in stats
        if name in ("cmdstat_evalsha", "cmdstat_blmove", "cmdstat_blpop", "cmdstat_client|unblock")
    )


async def _used(client: Any) -> float:
    """Processor seconds of the server so far."""
    info = await client.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


SECTIONS: Final[dict[str, Callable[[str], Rows]]] = {
    "jobs": jobs,
    "waiting": waiting,
    "idle": idle,
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    add_output_argument(parser, "scaling")
    options = parser.parse_args()
    if unknown := {*options.sections} - {*SECTIONS}:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    report = Report("scaling", ("section", "jobs at once", "idle workers"), options.json)
    for name in options.sections or SECTIONS:
        with RedisServer() as server:
            rows = SECTIONS[name](server.url)
        for row in rows:
            report.add(section=name, **row)
        print(f"\n{name}\n\n{table(rows)}", flush=True)
    print(f"\nwritten to {report.write()}")


if __name__ == "__main__":
    main()
