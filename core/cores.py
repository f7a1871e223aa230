"""How many cores this process may use. A container's limit is time, which no library looks at.

Torch starts a thread for each core that it sees. Where a control group allows less time than that,
as `docker run --cpus` and Kubernetes' limits do, the threads wait for each other until it is used
up, and then all stand still: two threads that share one core's time took 1.24 times as long as one.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

#: Which groups this process is in, and where they are.
MEMBERSHIP: Final = Path("/proc/self/cgroup")
HIERARCHIES: Final = Path("/sys/fs/cgroup")


def bound_threads() -> None:
    """Have torch compute with no more threads than there is time for; OMP_NUM_THREADS stays.

    Holds for threads that have not computed yet, and for the calling one.
    """
    import torch

    limit = cpu_limit()
    usual = torch.get_num_threads()
    # A part of a core is worth a thread: with 1.5, two are a third faster than one.
    allowed = usual if limit is None else max(1, math.ceil(limit))
    if allowed < usual and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(allowed)
        log.info(
            "threads: %d of %d, as this container is limited to %.1f cores", allowed, usual, limit
        )


def cpu_limit(membership: Path = MEMBERSHIP, hierarchies: Path = HIERARCHIES) -> float | None:
    """Seconds of processor time a second that the control groups of this process allow; None: any.

    Of version 1 and 2, each group's own and those of all around it. In a container the group's path
    may be the host's, which is not to be seen there; then the outermost folder is its own.
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
        # Above what is mounted there is nothing to be seen.
        group = root if ".." in path.split("/") else root / path.strip("/")
        for folder in (group, *group.parents):
            limits += _limits(folder)
            if folder == root:
                break
    return min(limits, default=None)


def _limits(group: Path) -> Iterator[float]:
    """What one group's files say, if they are there and set a limit."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota != "max" and int(quota) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
