"""Programs with a /dev/shm of their own, which no other process sees and which ends with them."""

from __future__ import annotations

import os
import shlex
import subprocess


def own_shm(options: str = "") -> tuple[str, ...]:
    """What a command is put behind to have a /dev/shm of its own; it keeps its process id.

    `options` are mount's. Others find the folder under /proc/PID/root/dev/shm.
    """
    given = f"-o {shlex.quote(options)} " if options else ""
    return _behind(f"mount -t tmpfs {given}tmpfs /dev/shm")


def same_shm(mode: str) -> tuple[str, ...]:
    """What a command is put behind to have everybody's /dev/shm read-only (`ro`) or not (`rw`)."""
    return _behind(f"mount --bind /dev/shm /dev/shm && mount -o remount,{mode},bind /dev/shm")


def _behind(mount: str) -> tuple[str, ...]:
    own_mounts = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "-r", "--mount")
    return (*own_mounts, "sh", "-c", f'{mount} && exec "$@"', "sh")


def is_allowed() -> bool:
    """Whether this machine and this user may have such programs."""
    try:
        tried = subprocess.run([*own_shm(), "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0
