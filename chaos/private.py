"""Programs with a /dev/shm of their own, which nobody else sees and which ends with them."""

from __future__ import annotations

import subprocess
from typing import Final

_MOUNT: Final = "mount -t tmpfs tmpfs /dev/shm"

#: What a command is put behind to run in a mount namespace of its own; it keeps its process id.
PRIVATE: Final = ("unshare", "-m", "sh", "-c", f'{_MOUNT} && exec "$@"', "sh")


def is_allowed() -> bool:
    """Whether this machine and this user may have such programs."""
    try:
        tried = subprocess.run([*PRIVATE, "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0
