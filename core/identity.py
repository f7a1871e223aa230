"""Who this worker is, and which shared memory it sees."""

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
from core.keys import Kind
from core.shm import SHM_FOLDER


@dataclass(frozen=True, slots=True)
class Identity:
    """The names under which a worker appears in Redis and in shared memory.

    `worker` is `{host}-{pid}-{12 hex}`, made of letters, digits and hyphens only, so that it can
    be part of a segment's name; the first four hex digits stand for the names of its queues.
    `namespace` is the same for exactly those processes that see the same segments: the boot id of
    the host and the device number of /dev/shm. `started` is in unix seconds.
    """

    worker: str
    namespace: str
    host: str
    pid: int
    started: int


def current_identity(settings: Settings) -> Identity:
    """A new identity for this process."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()).strip("-")[:40] or "host"
    pid = os.getpid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    device = os.stat(SHM_FOLDER).st_dev
    worker = f"{host}-{pid}-{_digest(settings)}{secrets.token_hex(4)}"
    return Identity(worker, f"{boot}-{device}", host, pid, int(time.time()))


def process_name() -> str:
    """`{pid namespace}:{pid}`: tells processes of different containers apart."""
    return f"{os.stat('/proc/self/ns/pid').st_ino}:{os.getpid()}"


def serves_same_queues(worker: str, settings: Settings) -> bool:
    """Whether a worker takes, or took, its jobs from the queues that are configured here.

    Only then can its jobs be put back: two pipelines with queues of their own may share a host
    and a Redis, and a dead worker cannot be asked.
    """
    return worker.rpartition("-")[2].startswith(_digest(settings))


def _digest(settings: Settings) -> str:
    queues = "\0".join(settings.queue(kind) for kind in Kind)
    return hashlib.sha256(queues.encode()).hexdigest()[:4]
