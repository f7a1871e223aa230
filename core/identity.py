"""The identity of a worker: its name, its host, and the shared memory that it sees."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from core.config import Settings
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


def current_identity(settings: Settings) -> Identity:
    """A new identity for this process; raises NoSharedMemory."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        device = os.stat(SHM_FOLDER).st_dev
    except OSError as error:
        raise NoSharedMemory(
            f"{SHM_FOLDER} cannot be used ({error.strerror}): mount a tmpfs there, or in a "
            "container the sender's own"
        ) from error
    return identity_in(settings, f"{boot}-{device}")


def identity_in(settings: Settings, namespace: str) -> Identity:
    """A new identity for this process, in the given namespace."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()).strip("-")[:40] or "host"
    pid = os.getpid()
    worker = f"{host}-{pid}-{kinship(settings, namespace)}{secrets.token_hex(4)}"
    return Identity(worker, namespace, host, pid, int(time.time()))


def process_name() -> str:
    """`{pid namespace}:{pid}`, which is unique among the containers of a host."""
    return f"{os.stat('/proc/self/ns/pid').st_ino}:{os.getpid()}"


def is_kin(worker: str, settings: Settings, namespace: str) -> bool:
    """Whether a worker belongs to the crew of these queues in this namespace.

    Only the jobs of such a worker can be put back: two pipelines with queues of their own may share
    a host and a Redis, and the name of a dead worker is all that is known of it.
    """
    return worker.rpartition("-")[2].startswith(kinship(settings, namespace))


def crew_name(settings: Settings, namespace: str) -> str:
    """The name of a crew: the workers of these queues in this namespace."""
    return f"{namespace} {kinship(settings, namespace)}"


def kinship(settings: Settings, namespace: str) -> str:
    """Four hex digits: a hash of the queues' names and the namespace."""
    names = "\0".join((*(settings.queue(kind) for kind in Kind), namespace))
    return hashlib.sha256(names.encode()).hexdigest()[:4]
