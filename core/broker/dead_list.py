"""The dead-letter list for operators: list, retry and discard dead jobs.

Every change is one atomic script. At any moment an entry is on the list, or its message in its
queue, or its inputs on a cleanup list, even if several programs change the list at the same time.

The list and its entries may be long. It is read in chunks of limited size, and only the heads of
entries are fetched. A whole entry is read only if its message is needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

import redis

from core import keys
from core.broker.dead_job import (
    CHUNK_BYTES,
    CHUNK_ENTRIES,
    HEAD_BYTES,
    DeadJob,
    heads,
    is_unreadable_head,
    parse_entry,
)
from core.broker.scripts import load_scripts
from core.config import Settings
from core.contract import allowed_inputs, parse_job
from core.errors import BadMessage
from core.identity import Identity, current_identity, identity_in
from core.keys import Kind
from core.pixels import shm

#: Reasons for which a message is refused by itself, and those for which its segments are.
BAD_MESSAGES: Final = (
    *("bad_json", "bad_field", "bad_name", "bad_dtype", "bad_shape", "bad_padding"),
    *("size_mismatch", "too_large", "too_long"),
)
BAD_PIXELS: Final = ("bad_values", "not_a_segment", "segment_too_small")

#: Entries per step when the list is read from the tail.
PART: Final = 100


@dataclass(frozen=True)
class Filter:
    """Selects dead jobs: those that match every given field."""

    ids: tuple[str, ...] = ()  # starts of ids, or whole request ids
    reason: str = ""
    queue: str = ""
    text: str = ""  # part of the error, request id or image id, case-insensitive
    older_than_s: float | None = None
    newer_than_s: float | None = None

    def __call__(self, job: DeadJob) -> bool:
        age_s = time.time() - job.at
        searched = f"{job.error}\n{job.request_id}\n{job.image_id}".lower()
        return (
            (not self.ids or any(self._names(name, job) for name in self.ids))
            and self.reason in ("", job.reason)
            and self.queue in ("", job.queue)
            and self.text.lower() in searched
            and (self.older_than_s is None or age_s >= self.older_than_s)
            and (self.newer_than_s is None or age_s <= self.newer_than_s)
        )

    @staticmethod
    def _names(name: str, job: DeadJob) -> bool:
        return name == job.request_id or (len(name) >= 4 and job.id.startswith(name))


class DeadList:
    """The dead-letter list of a Redis server, seen by a process with this /dev/shm."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._redis = client
        self._scripts = load_scripts(client)
        # Entries that this object has removed. An entry's place is its index plus this number, so
        # that it stays valid when entries before it are removed.
        self._removed = 0

    @cached_property
    def _identity(self) -> Identity:
        return current_identity(self._settings.queues)

    def __len__(self) -> int:
        return self._redis.llen(keys.DEAD)

    def latest(self, most: int) -> list[DeadJob]:
        """The jobs of the last `most` entries, newest first.

        Long entries of earlier versions, which would have to be read whole, are left out.
        """
        length = len(self)
        return list(self._part(max(0, length - most), length))

    def matching(self, matches: Filter) -> Iterator[DeadJob]:
        """The jobs that a filter selects, oldest first; they may be changed during the iteration.

        Jobs that die meanwhile are not included. If others remove entries meanwhile, one may be
        missed.
        """
        place = self._removed
        end = place + len(self)
        while place < end:
            jobs = self._jobs(place - self._removed, end - place, whole=True)
            if not jobs:
                break
            place += len(jobs)
            yield from (job for job in jobs if job and matches(job))

    def named(self, ids: tuple[str, ...]) -> Iterator[DeadJob]:
        """The jobs with these whole ids, newest first; they may be changed during the iteration.

        The search starts at the tail, where those of `latest` are, and ends when all are found.
        """
        missing, end = set(ids), len(self)
        while missing and end > 0:
            start = max(0, end - PART)
            for job in self._part(start, end):
                if job.id in missing:
                    missing.discard(job.id)
                    yield job
            end = start

    def read(self, job: DeadJob) -> DeadJob | None:
        """The job with its message; None if it is no longer on the list."""
        if job.payload is not None:
            return job
        index: int | None = self._index(job)
        while index is not None:
            entry = cast("bytes | None", self._redis.lindex(keys.DEAD, index))
            if entry and len(entry) == job.entry_length and entry.startswith(job.head):
                return parse_entry(entry, place=job.place)
            index = self._search(job)
        return None

    def inputs_here(self, job: DeadJob) -> bool | None:
        """Whether the job's inputs still exist; None if they are in another shared memory."""
        if job.namespace != self._identity.namespace:
            return None
        names = allowed_inputs(job.inputs, self._settings.wire_format)
        return bool(names) and all(shm.exists(name) for name in names)

    def is_ours(self, job: DeadJob) -> bool:
        """Whether a job came from one of the configured queues."""
        return self._kind(job) is not None

    def obstacle(self, job: DeadJob) -> str:
        """Why a job cannot be retried; empty if it can."""
        if self._kind(job) is None:
            return f"it came from the queue {job.queue!r}, which is not configured here"
        if job.truncated:
            return (
                "its message was above MAX_MESSAGE_BYTES and was not kept: discard it, and send "
                f"one that is shorter than its {job.length} bytes"
            )
        return ""

    def refusal(self, job: DeadJob, *, examine: bool = True) -> str:
        """Why a job should not be retried; empty if it may be.

        With `examine`, a message that was refused is read and examined again, because the settings
        may have changed.
        """
        if obstacle := self.obstacle(job):
            return obstacle
        if job.reason in BAD_PIXELS or (job.reason in BAD_MESSAGES and not examine):
            return f"it would fail again as {job.reason}: {job.error}"
        if job.reason in BAD_MESSAGES and (whole := self.read(job)) and whole.payload is not None:
            try:
                parse_job(whole.payload, self._settings.wire_format)
            except BadMessage as error:
                return f"it would fail again as {error.reason}: {error}"
        if self.inputs_here(job) is False:
            return "its inputs are gone, or it names none: it would fail again"
        return ""

    def retry(self, job: DeadJob) -> bool:
        """Put a job back at the tail of its queue; False if it was no longer on the list.

        Raises ValueError if it cannot be retried (see `obstacle`).
        """
        if obstacle := self.obstacle(job):
            raise ValueError(obstacle)
        whole = self.read(job)
        if whole is None or whole.payload is None:
            return False
        outcome = self._change(
            "redrive",
            job,
            queue=job.queue,
            result=keys.result(job.request_id) if job.request_id else None,
            payload=whole.payload,
            sha1=keys.sha1(whole.payload),
        )
        return bool(outcome)

    def discard(self, job: DeadJob) -> bool:
        """Drop a job and unlink its inputs; False if it was no longer on the list.

        Inputs in another shared memory are left to a worker there. Raises ValueError if the job's
        queue is not configured here.
        """
        if not self.is_ours(job):
            raise ValueError(self.obstacle(job))
        if job.truncated or not job.inputs:
            return bool(self._change("drop", job))
        whole = self.read(job)
        if whole is None or whole.payload is None:
            return False
        # Reapers clean up after their own crew only, so this process poses as a member of it.
        me = identity_in(self._settings.queues, job.namespace).worker
        workers, cleanup = keys.workers(job.namespace), keys.cleanup(me)
        outcome = self._change(
            "discard",
            job,
            queue=job.queue,
            cleanup=cleanup,
            workers=workers,
            payload=whole.payload,
            worker=me,
        )
        if outcome == 1 and job.namespace == self._identity.namespace:
            shm.unlink_all(
                allowed_inputs(job.inputs, self._settings.wire_format), self._settings.uids
            )
            self._redis.lrem(cleanup, 1, cast(str, whole.payload))
            self._scripts["forget"](
                workers=workers,
                heartbeat=keys.heartbeat(me),
                claims=keys.claims(me),
                lists=[cleanup],
                worker=me,
            )
        return bool(outcome)

    def _part(self, start: int, end: int) -> Iterator[DeadJob]:
        """The jobs between two indexes whose heads can be parsed, newest first."""
        jobs: list[DeadJob | None] = []
        while start + len(jobs) < end:
            chunk = self._jobs(start + len(jobs), end - start - len(jobs), whole=False)
            if not chunk:
                break
            jobs += chunk
        return (job for job in reversed(jobs) if job)

    def _jobs(self, index: int, most: int, *, whole: bool) -> list[DeadJob | None]:
        """A chunk of jobs, from the entry at an index on.

        None stands for an entry of another program and, unless `whole`, for one that would have to
        be read whole.
        """
        reply = self._scripts["heads"](
            first=index,
            count=min(most, CHUNK_ENTRIES),
            most_bytes=CHUNK_BYTES,
            head_bytes=HEAD_BYTES,
        )
        jobs: list[DeadJob | None] = []
        for at, (head, length) in enumerate(heads(reply), index):
            data = head
            if whole and is_unreadable_head(head, length):
                entry = cast("bytes | None", self._redis.lindex(keys.DEAD, at))
                data = entry if entry and len(entry) == length else head
            jobs.append(parse_entry(data, length, at + self._removed))
        return jobs

    def _change(self, script: str, job: DeadJob, **named: Any) -> int:
        """The reply of a script that removes a job's entry; 0 if it was no longer on the list."""
        index: int | None = self._index(job)
        while index is not None:
            outcome = int(
                self._scripts[script](index=index, head=job.head, length=job.entry_length, **named)
            )
            if outcome > 0:
                self._removed += 1
                return outcome
            index = self._search(job)
        return 0

    def _index(self, job: DeadJob) -> int:
        """The index of a job's entry, unless others have removed entries before it."""
        return max(0, job.place - self._removed)

    def _search(self, job: DeadJob) -> int | None:
        """The index of a job's entry, by a search; None if it is no longer on the list."""
        index = job.place
        while index >= 0:
            found, index = self._scripts["find"](
                start=index, head=job.head, length=job.entry_length, most_bytes=CHUNK_BYTES
            )
            if found:
                return int(index)
        return None

    def _kind(self, job: DeadJob) -> Kind | None:
        return next((kind for kind in Kind if self._settings.queue(kind) == job.queue), None)
