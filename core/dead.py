"""The dead list for people: looked at, tried again, discarded.

Every change is one script, so that an entry is at any moment on the list, in its queue, or its
inputs are on a cleanup list, whoever else works on the list at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

import redis

from core import keys, shm
from core.config import Settings
from core.connection import LUA
from core.contract import input_names
from core.dead_job import DeadJob, parse_entry
from core.identity import Identity, current_identity, identity_in
from core.keys import Kind

#: Most entries fetched at once.
CHUNK: Final = 1000


@dataclass(frozen=True)
class Filter:
    """Which dead jobs are meant: those that agree with everything that is given."""

    ids: tuple[str, ...] = ()  # starts of ids or whole request ids
    reason: str = ""
    queue: str = ""
    text: str = ""  # in the error, request id or image id, in any case
    older_than_s: float | None = None
    newer_than_s: float | None = None

    def __call__(self, job: DeadJob) -> bool:
        age_s = time.time() - job.at
        words = f"{job.error}\n{job.request_id}\n{job.image_id}".lower()
        return (
            (not self.ids or any(self._names(name, job) for name in self.ids))
            and self.reason in ("", job.reason)
            and self.queue in ("", job.queue)
            and self.text.lower() in words
            and (self.older_than_s is None or age_s >= self.older_than_s)
            and (self.newer_than_s is None or age_s <= self.newer_than_s)
        )

    @staticmethod
    def _names(name: str, job: DeadJob) -> bool:
        return name == job.request_id or (len(name) >= 4 and job.id.startswith(name))


class DeadList:
    """The dead list of a Redis server, as one process at a shared memory sees it."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._redis = client
        self._redrive = client.register_script((LUA / "redrive.lua").read_text())
        self._forget = client.register_script((LUA / "forget.lua").read_text())
        self._discard = client.register_script((LUA / "discard.lua").read_text())

    @cached_property
    def _identity(self) -> Identity:
        return current_identity(self._settings)

    def __len__(self) -> int:
        return self._redis.llen(keys.DEAD)

    def latest(self, most: int) -> list[DeadJob]:
        """The jobs that died last, the very last first."""
        entries = cast("list[bytes]", self._redis.lrange(keys.DEAD, -most, -1))
        return [job for entry in reversed(entries) if (job := parse_entry(entry))]

    def matching(self, wanted: Filter) -> Iterator[DeadJob]:
        """The jobs that a filter wants, oldest first.

        The list is read a part at a time: what others remove meanwhile may hide an entry. To be
        read to the end before any of them is changed.
        """
        start = 0
        while entries := cast(
            "list[bytes]", self._redis.lrange(keys.DEAD, start, start + CHUNK - 1)
        ):
            yield from (job for entry in entries if (job := parse_entry(entry)) and wanted(job))
            start += len(entries)

    def inputs_here(self, job: DeadJob) -> bool | None:
        """Whether the job's inputs still exist; None if they are in another shared memory."""
        if job.namespace != self._identity.namespace:
            return None
        names = input_names(job.payload, self._settings)
        return bool(names) and all(shm.exists(name) for name in names)

    def is_ours(self, job: DeadJob) -> bool:
        """Whether a job came from one of the queues that are configured here."""
        return self._kind(job) is not None

    def refusal(self, job: DeadJob) -> str:
        """Why a job should not be tried again; empty if it may be."""
        if self._kind(job) is None:
            return f"it came from the queue {job.queue!r}, which is not configured here"
        if self.inputs_here(job) is False:
            return "its inputs are gone, or it names none: it would fail again"
        return ""

    def retry(self, job: DeadJob) -> bool:
        """Put a job back to the tail of its queue; False if it was no longer on the list.

        Raises ValueError if its queue is not one of those configured.
        """
        kind = self._required_kind(job)
        key_list = [keys.DEAD, self._settings.queue(kind), keys.ATTEMPTS]
        if job.request_id:
            key_list.append(keys.result(job.request_id))
        return bool(self._redrive(key_list, [job.entry, job.payload, keys.sha1(job.payload)]))

    def discard(self, job: DeadJob) -> bool:
        """Drop a job for good and unlink its inputs; False if it was no longer on the list.

        Inputs in another shared memory are left to a worker there.
        """
        kind = self._required_kind(job)
        # Reapers clear up after their kin only: those of the same queues and shared memory.
        me = identity_in(self._settings, job.namespace).worker
        members = keys.workers(job.namespace)
        outcome = self._discard(
            [keys.DEAD, self._settings.queue(kind), keys.cleanup(me), members],
            [job.entry, job.payload, me],
        )
        if outcome == 1 and job.namespace == self._identity.namespace:
            names = input_names(job.payload, self._settings)
            shm.unlink_all(names, self._settings.uids)
            self._redis.lrem(keys.cleanup(me), 1, cast(str, job.payload))
            self._forget([members, keys.heartbeat(me), keys.cleanup(me)], [me])
        return bool(outcome)

    def _kind(self, job: DeadJob) -> Kind | None:
        return next((kind for kind in Kind if self._settings.queue(kind) == job.queue), None)

    def _required_kind(self, job: DeadJob) -> Kind:
        kind = self._kind(job)
        if kind is None:
            raise ValueError(self.refusal(job))
        return kind
