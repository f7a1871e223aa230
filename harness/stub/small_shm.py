"""The stub worker with a /dev/shm of its own, mounted with the options STUB_SHM_OPTIONS.

Others find it under /proc/PID/root/dev/shm.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

if __name__ == "__main__":
    worker = Path(__file__).with_name("worker.py")
    options = os.environ["STUB_SHM_OPTIONS"]
    script = (
        f"mount -t tmpfs -o {shlex.quote(options)} tmpfs /dev/shm || exit 77; "
        f"exec {shlex.quote(sys.executable)} {shlex.quote(str(worker))}"
    )
    own_mounts = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    os.execvp(own_mounts[0], [*own_mounts, "sh", "-c", script])
