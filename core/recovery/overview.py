"""A snapshot of all workers, from Redis and /dev/shm: for commands, metrics and the status page."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import redis

from core import keys
from core.config import REQUEST_ID
from core.contract import is_result_name
from core.identity import crew_of
from core.keys import Kind
from core.pixels import shm
from core.recovery.orphans import parse_crews


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as its heartbeat describes it. `started` is in unix seconds.

    `per_minute` is the number of jobs it finished in the last minute, `processing` of those in
    hand. `here` says whether it serves the configured queues. `process` is its
    `core.identity.process_name`.
    """

    worker: str
    host: str
    pid: int
    process: str
    namespace: str
    version: str
    started: float
    model: str
    admin_port: int
    done: int
    dead: int
    per_minute: float
    processing: int
    here: bool


@dataclass(frozen=True, slots=True)
class OrphanInfo:
    """A crew without a living worker.

    `seen` is when one was last alive, in unix seconds; `jobs` is how many they had in hand.
    """

    namespace: str
    host: str
    queues: dict[str, str]
    seen: float
    jobs: int


@dataclass(frozen=True, slots=True)
class Overview:
    """The state at one moment. Numbers of jobs: `backlog` waiting, by kind; `delayed` waiting for
    another attempt, by kind; `dead`; `attempts` with a failed attempt. `orphans` are crews without
    a living worker.
    """

    at: float
    queues: dict[str, str]
    backlog: dict[str, int]
    delayed: dict[str, int]
    dead: int
    attempts: int
    outcomes: int
    workers: tuple[WorkerInfo, ...]
    orphans: tuple[OrphanInfo, ...]

    @property
    def processing(self) -> int:
        """Jobs claimed by workers that serve these queues."""
        return sum(worker.processing for worker in self.workers if worker.here)

    @property
    def orphaned(self) -> int:
        """Jobs claimed by dead workers whose crew has no living worker to recover them."""
        return sum(orphan.jobs for orphan in self.orphans)

    @property
    def per_minute(self) -> float:
        """Jobs finished in the last minute by workers that serve these queues."""
        return sum(worker.per_minute for worker in self.workers if worker.here)

    def to_dict(self) -> dict[str, Any]:
        """All fields and properties, for JSON."""
        return {
            **asdict(self),
            "processing": self.processing,
            "orphaned": self.orphaned,
            "per_minute": self.per_minute,
        }


@dataclass(frozen=True, slots=True)
class ShmUse:
    """Shared memory in bytes, and the segments of results in it."""

    size: int
    free: int
    results: int
    result_bytes: int


def read_overview(
    client: redis.Redis, queues: Mapping[Kind, str], result_queue: str, namespace: str = ""
) -> Overview:
    """Query Redis. With a namespace, only its workers are included, which saves a scan."""
    with client.pipeline(transaction=False) as batch:
        for kind in Kind:
            batch.llen(queues[kind])
        for kind in Kind:
            batch.zcard(keys.delayed(queues[kind]))
        batch.llen(keys.DEAD)
        batch.hlen(keys.ATTEMPTS)
        batch.hgetall(keys.CREWS)
        *lengths, dead, attempts, crews = batch.execute()
    outcomes = waiting_outcomes(client, result_queue)
    waiting, delayed = lengths[: len(Kind)], lengths[len(Kind) :]
    if namespace:
        members = cast("set[bytes]", client.smembers(keys.workers(namespace)))
    else:
        beats = client.scan_iter(keys.heartbeat("*"), count=1000)
        members = {key.removeprefix(keys.heartbeat("").encode()) for key in beats}
    return Overview(
        time.time(),
        {str(kind): queues[kind] for kind in Kind},
        {str(kind): length for kind, length in zip(Kind, waiting, strict=True)},
        {str(kind): length for kind, length in zip(Kind, delayed, strict=True)},
        dead,
        attempts,
        outcomes,
        tuple(
            _workers(client, queues, sorted(name.decode("utf-8", "replace") for name in members))
        ),
        tuple(_orphans(client, crews)),
    )


def shm_use(name_prefix: str) -> ShmUse:
    """Search /dev/shm for results; `name_prefix` is SHM_NAME_PREFIX."""
    count = size = 0
    for entry in os.scandir(shm.SHM_FOLDER):
        if is_result_name(entry.name, name_prefix):
            try:
                size += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue  # just unlinked
            count += 1
    return ShmUse(shm.size_bytes(), shm.free_bytes(), count, size)


def waiting_outcomes(client: redis.Redis, result_queue: str) -> int:
    """The length of a result queue that all requests share, if it is a list."""
    if not result_queue or REQUEST_ID in result_queue:
        return 0
    try:
        return client.llen(result_queue)
    except redis.ResponseError:  # another program uses the key
        return 0


def _orphans(client: redis.Redis, crews: dict[bytes, bytes]) -> Iterator[OrphanInfo]:
    """The crews that have left something and have no living worker."""
    for known in parse_crews(crews):
        crew = known.crew
        noted = cast("set[bytes]", client.smembers(keys.workers(crew.namespace)))
        members = [name for member in noted if crew.has(name := member.decode("utf-8", "replace"))]
        beats = [keys.heartbeat(member) for member in members]
        if not beats or client.exists(*beats):
            continue
        with client.pipeline(transaction=False) as batch:
            for member in members:
                for kind in Kind:
                    batch.llen(keys.processing(member, kind))
            jobs = sum(batch.execute())
        queues = {str(kind): queue for kind, queue in crew.queues.items()}
        yield OrphanInfo(crew.namespace, crew.host, queues, known.seen, jobs)


def _workers(
    client: redis.Redis, queues: Mapping[Kind, str], members: list[str]
) -> list[WorkerInfo]:
    with client.pipeline(transaction=False) as batch:
        for worker in members:
            batch.get(keys.heartbeat(worker))
            for kind in Kind:
                batch.llen(keys.processing(worker, kind))
        replies = batch.execute()
    step = 1 + len(Kind)
    workers = []
    for index, worker in enumerate(members):
        value, *processing = replies[index * step : (index + 1) * step]
        info = _worker(worker, value, sum(processing), queues)
        if info is not None:
            workers.append(info)
    return workers


def _worker(
    worker: str, heartbeat: bytes | None, processing: int, queues: Mapping[Kind, str]
) -> WorkerInfo | None:
    try:
        beat = json.loads(heartbeat or b"")
        return WorkerInfo(
            worker=worker,
            host=str(beat["host"]),
            pid=int(beat["pid"]),
            process=str(beat.get("process", "")),
            namespace=str(beat["namespace"]),
            version=str(beat["version"]),
            started=float(beat["started"]),
            model=str(beat.get("model", "")),
            admin_port=int(beat.get("admin_port", 0)),
            done=int(beat.get("done", 0)),
            dead=int(beat.get("dead", 0)),
            per_minute=float(beat.get("per_minute", 0)),
            processing=processing,
            here=crew_of(queues, str(beat["namespace"])).has(worker),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None  # dead, or another program's
