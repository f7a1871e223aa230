"""What the records of results cost at many commits a second: Redis' memory and the process' own.

Jobs are claimed and committed as a worker does, with its recovery, without pictures and without a
network; once with receivers that fetch each result, and once with none. With receivers both must
level off.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from benchmarks import machine
from benchmarks.report import Report, add_output_argument
from core import keys
from core.broker.queues import Queues
from core.claims import Claim, Ending
from core.config import Settings
from core.contract import Segment, parse_job, result_fields, result_name_start
from core.identity import current_identity
from core.keys import Kind
from core.recovery.recovery import Recovery
from harness.redis_server import RedisServer
from harness.wire import encode, job_message, shm_info

MIB: Final = 1 << 20

#: Jobs that wait at any time, so that there is always one to claim.
WAITING: Final = 500

#: By how much the last quarter of a series may lie above the second one.
GROWTH: Final = 1.1

KIND: Final = Kind.SHORT


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment of a run."""

    seconds: float
    commits: int
    redis_bytes: int
    process_bytes: int
    records: int
    unread: int


class Committer:
    """Commits jobs as a worker does; the only user of the worker's code here."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._identity = current_identity(settings.queues)
        self._queues = Queues(settings, self._identity)
        self._recovery = Recovery(settings, self._identity, self._queues.link)
        self._count = 0

    @property
    def queue(self) -> str:
        """The list that jobs are taken from."""
        return self._settings.queue(KIND)

    @property
    def records(self) -> str:
        """The key of the records of results."""
        return keys.segments(self._identity.namespace)

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        """Registered, with its recovery."""
        await self._queues.register()
        recovering = asyncio.create_task(self._recovery.run())
        try:
            yield self
        finally:
            recovering.cancel()
            await self._queues.deregister()
            await self._queues.close()
            await self._recovery.close()

    async def commit(self, count: int) -> list[str]:
        """Claim up to so many jobs and commit them at once; the keys of their results."""
        claims = await self._queues.take(KIND, count)
        if claims:
            await self._queues.enter(claims)
        return list(await asyncio.gather(*map(self._commit, claims)))

    async def _commit(self, claim: Claim) -> str:
        job = parse_job(claim.payload, self._settings.wire_format)
        worker, prefix = self._identity.worker, self._settings.shm_name_prefix
        start = result_name_start(worker, claim.payload, prefix=prefix)
        self._count += 1
        segment = Segment(f"{start}{self._count}", job.image.shape, job.image.dtype)
        fields = result_fields(job, segment, KIND, worker)
        outcome, _ = await self._queues.commit(claim, job.request_id, segment.name, fields)
        if outcome is not Ending.COMMITTED:
            raise RuntimeError(f"the job of request {job.request_id} is {outcome}")
        await self._queues.drop_cleanup_entry(claim, f"{segment.name} {job.request_id}")
        return keys.result(job.request_id)


class Run:
    """Jobs at a rate for some time, with receivers or without."""

    def __init__(self, url: str, rate: float, concurrent: int, *, fetched: bool) -> None:
        self._redis: Any = redis.asyncio.Redis.from_url(url, protocol=2)
        self._committer = Committer(Settings(_env_file=None, redis_url=url))
        self._rate = rate
        self._concurrent = concurrent
        self._fetched = fetched
        self._pushed = self._commits = self._read = 0
        self.samples: list[Sample] = []

    async def run(self, seconds: float, interval_s: float) -> None:
        """Commit; a sample is taken every so many seconds."""
        async with self._redis, self._committer.running():
            began = time.monotonic()
            due = interval_s
            await self._sample(0.0)
            while (now := time.monotonic() - began) < seconds:
                if now >= due:
                    await self._sample(now)
                    due += interval_s
                behind = int(self._rate * now) - self._commits
                if behind <= 0:
                    await asyncio.sleep(1 / self._rate)
                    continue
                await self._push()
                results = await self._committer.commit(min(behind, self._concurrent))
                self._commits += len(results)
                if self._fetched:
                    await self._fetch(results)
            await self._sample(now)

    async def _push(self) -> None:
        missing = WAITING - (self._pushed - self._commits)
        if missing >= WAITING // 5:
            numbers = range(self._pushed, self._pushed + missing)
            await self._redis.rpush(self._committer.queue, *map(message, numbers))
            self._pushed += missing

    async def _fetch(self, results: Sequence[str]) -> None:
        """As receivers do: the hash is read and deleted."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in results:
                pipeline.hgetall(key)
                pipeline.delete(key)
            await pipeline.execute()
        self._read += len(results)

    async def _sample(self, now: float) -> None:
        self.samples.append(
            Sample(
                now,
                self._commits,
                int((await self._redis.info("memory"))["used_memory"]),
                machine.resident_bytes(),
                await self._redis.zcard(self._committer.records),
                self._commits - self._read,
            )
        )


def levelled_off(series: Sequence[float]) -> bool:
    """Whether the last quarter of a series lies no higher than the second one, by medians."""
    quarter = max(1, len(series) // 4)
    last, second = series[-quarter:], series[quarter : 2 * quarter]
    return statistics.median(last) <= GROWTH * statistics.median(second)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=2000, help="commits a second")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each of the two runs")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--concurrent", type=int, default=64, help="commits that are under way")
    add_output_argument(parser, "records")
    options = parser.parse_args()
    report = Report("records", ("fetched", "rate", "s"), options.json)
    verdicts = []
    for fetched in (True, False):
        with RedisServer() as server:
            run = Run(server.url, options.rate, options.concurrent, fetched=fetched)
            asyncio.run(run.run(options.minutes * 60, options.interval))
        _add(report, run.samples, options.rate, fetched)
        verdicts.append(_verdict(run.samples, fetched))
    report.finish()
    print("", *verdicts, sep="\n")


def _add(report: Report, samples: Sequence[Sample], rate: float, fetched: bool) -> None:
    for sample in samples:
        report.add(
            fetched="yes" if fetched else "no",
            rate=rate,
            s=round(sample.seconds),
            commits=sample.commits,
            **{
                "Redis MiB": round(sample.redis_bytes / MIB, 1),
                "process MiB": round(sample.process_bytes / MIB, 1),
                "records": sample.records,
                "results unread": sample.unread,
            },
        )


def _verdict(samples: Sequence[Sample], fetched: bool) -> str:
    last = samples[-1]
    words = {True: "levelled off", False: "did not level off"}
    redis_memory = words[levelled_off([sample.redis_bytes for sample in samples])]
    process_memory = words[levelled_off([sample.process_bytes for sample in samples])]
    rate = last.commits / last.seconds
    return (
        f"{'with' if fetched else 'without'} receivers: {rate:.0f} commits a second; Redis' memory "
        f"{redis_memory}, the process' {process_memory}"
    )


def message(number: int) -> bytes:
    """A message as it is sent for one of many pages."""
    message = job_message(
        f"request-{number:012}",
        shm_info(f"img_shm_{number:012}", (1024, 1024, 3)),
        shm_info(f"mask_shm_{number:012}", (1024, 1024)),
        KIND.value,
        image_id=f"page-{number}.jpg",
        original_size=(1000, 700),
        padding_info=(12, 162, 12, 162),
    )
    return encode(message)


if __name__ == "__main__":
    main()
