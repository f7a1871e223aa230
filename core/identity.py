"""The identity of a worker: its name, its host, the shared memory that it sees, its crew."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import NoSharedMemory
from core.keys import Kind
from core.pixels.shm import SHM_FOLDER


@dataclass(frozen=True, slots=True)
class Identity:
    """The names of a worker in Redis and in shared memory.

    `worker` is `{host}-{pid}-{12 hex}`. It has only letters, digits and hyphens, so that it can be
    part of a segment's name. The first four hex digits identify its queues and namespace.
    `namespace` identifies a shared memory: the boot id of the host and the device number of
    /dev/shm. Processes have the same one if and only if they see the same segments. `started` is in
    unix seconds.
    """

    worker: str
    namespace: str
    host: str
    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Crew:
    """The workers of one namespace that serve the same queues.

    Two pipelines with queues of their own may share a host and a Redis, and the name of a dead
    worker is all that is known of it. So a worker's name has `kinship`: four hex digits, a hash of
    the queues' names and the namespace. `host` is empty if it is not known.
    """

    namespace: str
    kinship: str
    queues: Mapping[Kind, str]
    host: str

    @property
    def name(self) -> str:
        """Its name in Redis."""
        return f"{self.namespace} {self.kinship}"

    @property
    def description(self) -> str:
        """What Redis has under its name: JSON of its host and its queues."""
        return json.dumps({"host": self.host, **{str(kind): self.queues[kind] for kind in Kind}})

    def has(self, worker: str) -> bool:
        """Whether a worker, or its ghost, belongs to it."""
        return worker.rpartition("-")[2].startswith(self.kinship)


def crew_of(queues: Mapping[Kind, str], namespace: str, host: str = "") -> Crew:
    """The crew that serves these queues in a namespace."""
    names = [queues[kind] for kind in Kind]
    digest = hashlib.sha256("\0".join((*names, namespace)).encode()).hexdigest()
    return Crew(namespace, digest[:4], queues, host)


def current_namespace() -> str:
    """The shared memory that this process sees; raises NoSharedMemory."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        device = os.stat(SHM_FOLDER).st_dev
    except OSError as error:
        raise NoSharedMemory(
            f"{SHM_FOLDER} cannot be used ({error.strerror}): mount a tmpfs there, or in a "
            "container the sender's own"
        ) from error
    return f"{boot}-{device}"


def current_identity(queues: Mapping[Kind, str]) -> Identity:
    """A new identity for this process as a worker of these queues; raises NoSharedMemory."""
    return identity_in(queues, current_namespace())


def identity_in(queues: Mapping[Kind, str], namespace: str) -> Identity:
    """The same, in the given namespace."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()).strip("-")[:40] or "host"
    pid = os.getpid()
    worker = f"{host}-{pid}-{crew_of(queues, namespace).kinship}{secrets.token_hex(4)}"
    return Identity(worker, namespace, host, pid, int(time.time()))


def process_name() -> str:
    """`{pid namespace}:{pid}`, which is unique among the containers of a host."""
    return f"{os.stat('/proc/self/ns/pid').st_ino}:{os.getpid()}"
