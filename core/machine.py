"""What this process may use of its machine: processor time, and the memory that it has freed.

Libraries start a thread for each core that they see. A control group may allow less time than that,
as `docker run --cpus` and Kubernetes' limits do. Then the threads use the time up and all wait for
more: two threads that share one core's time took 1.24 times as long as one.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

#: The list of the groups that this process is in, and the folder of all groups.
MEMBERSHIP: Final = Path("/proc/self/cgroup")
HIERARCHIES: Final = Path("/sys/fs/cgroup")

#: The parameters of mallopt(3), by glibc's names.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

_NEVER: Final = -1
_LARGEST: Final = 1 << 30


def cpu_limit(membership: Path = MEMBERSHIP, hierarchies: Path = HIERARCHIES) -> float | None:
    """Seconds of processor time a second that the control groups of this process allow; None: any.

    Reads version 1 and 2, the limit of the process' own group and of each group around it. Inside a
    container the group's path may be the host's, which is not visible there; then the outermost
    folder is its own.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    limits: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root = hierarchies
        elif "cpu" in controllers.split(","):
            root = hierarchies / "cpu"
        else:
            continue
        # Nothing above the mounted folder is visible.
        group = root if ".." in path.split("/") else root / path.strip("/")
        for folder in (group, *group.parents):
            limits += _limits(folder)
            if folder == root:
                break
    return min(limits, default=None)


def _limits(group: Path) -> Iterator[float]:
    """The limits in one group's files, where they exist and set one."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota != "max" and int(quota) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue


def keep_freed_memory() -> None:
    """Makes malloc keep freed memory and use it again, in all threads and at all sizes.

    Otherwise glibc returns large blocks to the system at once, and each picture and each layer of
    the network pays for fresh pages: a fifth of the processor's time. The process never shrinks
    again. Must be called before threads are started; without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.debug("this C library has no mallopt: it decides itself what to keep of freed memory")
        return
    # Blocks come from the heap and not from mappings of their own. There is one heap, as only the
    # first can grow beyond 64 MB, and it never shrinks.
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_ARENA_MAX, 1)
    mallopt(_TRIM_THRESHOLD, _NEVER)
