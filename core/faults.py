"""Fault points: places where a test can kill a worker, to examine what it leaves behind.

FAULT_POINT=segment-written:3 kills the process (SIGKILL) when it passes that point for the third
time; the default count is 1. Without the variable, `fault_point` does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from enum import StrEnum

VARIABLE = "FAULT_POINT"


class Fault(StrEnum):
    """All fault points, in the order in which a job, a stop and a reaper pass them."""

    # One job.
    REGISTERED = "registered"  # alive in Redis, nothing claimed yet
    CLAIMED = "claimed"  # in the processing list and recorded, not read yet
    LOADED = "loaded"  # the pixels of a batch are in memory
    INFERRED = "inferred"  # the network is done with a batch
    SEGMENT_CREATED = "segment-created"  # the result's segment exists and is empty
    SEGMENT_RESERVED = "segment-reserved"  # it has its size, and zeros
    SEGMENT_WRITTEN = "segment-written"  # it is complete and not committed
    COMMITTED = "committed"  # the result is published, the inputs are there
    REPLACED_UNLINKED = "replaced-unlinked"  # an older result is unlinked, not yet recorded
    UNLINKED = "unlinked"  # a segment was unlinked; of inputs, the picture comes first
    INPUTS_UNLINKED = "inputs-unlinked"  # both are unlinked, not yet recorded
    CLEANED = "cleaned"  # done
    LAPSED = "lapsed"  # an expired job is published, its inputs are to be unlinked
    FAILING = "failing"  # about to be given up, not on the dead-letter list yet
    FAILED = "failed"  # on the dead-letter list, or given back for a device fault
    DELAYED = "delayed"  # about to be put into the delayed set, still claimed
    RETRIED = "retried"  # in the delayed set

    # A stop.
    STOPPED = "stopped"  # the batch in hand is done, unstarted jobs are not yet released
    RELEASED = "released"  # they are released
    STRUCK_OFF = "struck-off"  # deregistered, Redis connections still open

    # A reaper.
    FENCED = "fenced"  # jobs are in the lists of their worker's ghost
    BARRED = "barred"  # a segment written for one of them is barred, not yet unlinked
    REQUEUED = "requeued"  # jobs of one kind are back in their queue
    CLEANUP_UNLINKED = "cleanup-unlinked"  # inputs are unlinked, not yet recorded
    EXPIRED = "expired"  # the hash of an unread result is gone, its segment is there
    DEAD_EXPIRED = "dead-expired"  # the inputs of a dead job are gone, its entry is there


def parse(value: str) -> tuple[Fault, int]:
    """The fault point and the count, from `point` or `point:count`; raises ValueError."""
    name, _, count = value.partition(":")
    try:
        if (visits := int(count or 1)) > 0:
            return Fault(name), visits
    except ValueError:
        pass
    raise ValueError(
        f"{VARIABLE}={value!r} must be one of {', '.join(Fault)}, optionally followed by :count"
    )


if _value := os.environ.get(VARIABLE):
    try:
        _fatal, _remaining_visits = parse(_value)
    except ValueError as error:  # imported before anything that could report it
        sys.exit(f"{error}")
    _lock = threading.Lock()

    def fault_point(fault: Fault) -> None:
        """Kill the process if FAULT_POINT says so."""
        global _remaining_visits
        if fault is not _fatal:
            return
        with _lock:
            _remaining_visits -= 1
            if _remaining_visits == 0:
                os.kill(os.getpid(), signal.SIGKILL)

else:

    def fault_point(fault: Fault) -> None:
        """No-op: FAULT_POINT is not set."""
