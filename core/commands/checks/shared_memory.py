"""Shared memory: free space, a test write, and whether the jobs' segments can be opened."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterable, Iterator
from typing import Final, cast

import numpy as np
import redis

from core.broker.connection import sync_client
from core.broker.redis_errors import REDIS_ERRORS
from core.commands.checks.finding import Finding, ok, problem, size, warning
from core.config import Settings, WireFormat
from core.contract import allowed_inputs, input_names
from core.errors import (
    JobError,
    NoSharedMemory,
    OutOfSharedMemory,
    SharedMemoryRefusal,
    TransientFailure,
)
from core.identity import current_namespace
from core.pixels import shm
from core.recovery.overview import Overview, read_overview

#: Free space for a few batches: a job takes about 5 MB, its result 3 MB until it is fetched.
LITTLE_BYTES: Final = 256 << 20
TEST_BYTES: Final = 8 << 20

#: Number of waiting jobs of each queue whose segments are searched for.
SAMPLE: Final = 20

MAKE_ROOM: Final = (
    "fetch results that are waiting, remove what is left in /dev/shm, or make it larger (Docker: "
    "shm_size, or ipc: host)"
)
SHARE: Final = (
    "give worker and sender one IPC namespace (ipc: host, or ipc: service:…), or mount the same "
    "folder on /dev/shm of both"
)
KEEP: Final = (
    "keep a sender on Python before 3.13 from unlinking its segments when it exits "
    "(resource_tracker.unregister, see docs/contract.md)"
)


def check(settings: Settings) -> Iterator[Finding]:
    """Check the shared memory that this process sees."""
    try:
        mine = current_namespace()
    except NoSharedMemory as error:
        yield problem("shm", str(error), SHARE)
        return
    yield _room()
    yield _writing(settings.shm_name_prefix, settings.shm_file_mode, settings.uids)
    if uids := shm.not_unlinkable(settings.uids):
        yield warning(
            "shm",
            f"uid {os.geteuid()} can't unlink segments of uid {', '.join(map(str, uids))} "
            f"(SHM_ALLOWED_UIDS) in {shm.SHM_FOLDER}: the inputs of their jobs stay",
            "run worker and sender under one uid, or the worker as root",
        )
    try:
        with sync_client(settings.redis_url) as client:
            wire = settings.wire_format
            names = _named(client, settings.queues.values(), wire)
            yield from _opening(names, wire, settings.uids)
            overview = read_overview(client, settings.queues, settings.result_queue)
            yield from _others(overview, mine)
    except REDIS_ERRORS:
        pass  # the check of Redis reports it


def _room() -> Finding:
    free, whole = shm.free_bytes(), shm.size_bytes()
    text = f"{shm.SHM_FOLDER} has {size(free)} free of {size(whole)}"
    if free < TEST_BYTES:
        return problem("shm", f"{text}: too little for a result", MAKE_ROOM)
    if free < LITTLE_BYTES:
        return warning("shm", f"{text}, and a job takes about 8 MB until it is fetched", MAKE_ROOM)
    return ok("shm", text)


def _writing(name_prefix: str, file_mode: int, uids: Collection[int]) -> Finding:
    name = f"{name_prefix}doctor-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        shm.write(name, np.zeros(TEST_BYTES, np.uint8), file_mode)
    except OutOfSharedMemory as error:
        return problem("shm", str(error), MAKE_ROOM)
    except (SharedMemoryRefusal, TransientFailure, OSError) as error:
        return problem(
            "shm",
            f"{shm.SHM_FOLDER} cannot be written: {error}",
            "mount a tmpfs there that this user may write",
        )
    shm.unlink(name, uids)
    return ok("shm", f"a segment of {size(TEST_BYTES)} was written and removed")


def _named(client: redis.Redis, queues: Iterable[str], wire: WireFormat) -> list[str]:
    """The input segments of waiting jobs."""
    names: list[str] = []
    for queue in queues:
        waiting = cast("list[bytes]", client.lrange(queue, 0, SAMPLE - 1))
        for payload in waiting:
            names += input_names(payload, wire)
    return names


def _others(overview: Overview, mine: str) -> Iterator[Finding]:
    """Whether workers of these queues see another shared memory than the namespace `mine`."""
    others = [
        worker.worker for worker in overview.workers if worker.here and worker.namespace != mine
    ]
    if others:
        yield warning(
            "shm",
            f"{', '.join(others)} take jobs from the same queues but see another shared memory",
            f"{SHARE}; workers of several hosts need queues of their own, see {{host}} in "
            "docs/deployment.md",
        )


def _opening(names: list[str], wire: WireFormat, uids: Collection[int]) -> Iterator[Finding]:
    """Whether these segments are here, and can be opened."""
    if not names:
        yield ok("shm", "no job is waiting, so whether senders share it cannot be checked")
        return
    failures = [failure for name in names if (failure := _failure(name, uids))]
    missing = sum(failure.reason == "segment_missing" for failure in failures)
    here = len(names) - missing
    if missing:
        finding = problem if here == 0 else warning
        is_shared = here > 0 or any(allowed_inputs(shm.names(), wire))
        yield finding(
            "shm",
            f"{here} of {len(names)} input segments of the next waiting jobs are here",
            f"{KEEP}; or {SHARE}" if is_shared else f"{SHARE}; or {KEEP}",
        )
    shut = [failure for failure in failures if failure.reason != "segment_missing"]
    if shut:
        finding = problem if len(shut) == here else warning
        yield finding(
            "shm",
            f"{len(shut)} of {here} input segments of the next waiting jobs cannot be used",
            f"the first: {shut[0]}",
        )
    if not failures:
        yield ok(
            "shm", f"all {here} input segments of the next waiting jobs are here, and can be opened"
        )


def _failure(name: str, uids: Collection[int]) -> JobError | None:
    """Why a segment cannot be opened."""
    try:
        shm.check_readable(name, uids)
    except JobError as error:
        return error
    return None
