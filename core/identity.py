"""Who this worker is, and which shared memory it sees."""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from core.shm import SHM_FOLDER


@dataclass(frozen=True, slots=True)
class Identity:
    """The names under which a worker appears in Redis and in shared memory.

    `worker` is `{host}-{pid}-{8 hex}`, made of letters, digits and hyphens only, so that it can
    be part of a segment's name. `namespace` is the same for exactly those processes that see the
    same segments: the boot id of the host and the device number of /dev/shm. `started` is in unix
    seconds.
    """

    worker: str
    namespace: str
    host: str
    pid: int
    started: int


def current_identity() -> Identity:
    """A new identity for this process."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()).strip("-")[:40] or "host"
    pid = os.getpid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    device = os.stat(SHM_FOLDER).st_dev
    return Identity(
        f"{host}-{pid}-{secrets.token_hex(4)}", f"{boot}-{device}", host, pid, int(time.time())
    )
