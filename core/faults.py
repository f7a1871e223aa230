"""Places where a worker can be made to die, so that tests can look at what it leaves behind.

FAULT_POINT=segment-written:3 kills the process (SIGKILL) the third time that it gets there; the
count may be left out. Without that variable `fault_point` does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from enum import StrEnum

VARIABLE = "FAULT_POINT"


class Fault(StrEnum):
    """Every place, in the order in which a job, a stop and a reaper come past them."""

    # One job.
    REGISTERED = "registered"  # known as alive, nothing claimed yet
    CLAIMED = "claimed"  # in the processing list and the books, not read yet
    LOADED = "loaded"  # the pixels of a batch are in memory
    INFERRED = "inferred"  # the network is done with a batch
    SEGMENT_CREATED = "segment-created"  # the result's segment exists and is empty
    SEGMENT_RESERVED = "segment-reserved"  # it has its size, and zeros
    SEGMENT_WRITTEN = "segment-written"  # it is complete, nobody knows of it
    COMMITTED = "committed"  # result published, inputs there
    REPLACED_UNLINKED = "replaced-unlinked"  # an older result is gone, which is not noted yet
    UNLINKED = "unlinked"  # any segment was removed; of inputs, the picture comes first
    INPUTS_UNLINKED = "inputs-unlinked"  # both are gone, which is not noted yet
    CLEANED = "cleaned"  # done
    FAILING = "failing"  # about to be given up, and not on the dead list yet
    FAILED = "failed"  # on the dead list, or given back for a fault of the device
    DELAYED = "delayed"  # about to wait for another try, and still in hand
    RETRIED = "retried"  # waits for another try, in Redis

    # A stop.
    STOPPED = "stopped"  # the batch in hand is done, unstarted jobs are not put back
    RELEASED = "released"  # they are
    STRUCK_OFF = "struck-off"  # no longer in the set of workers, with a heartbeat still

    # A reaper.
    FENCED = "fenced"  # jobs are with the ghost of their worker
    BARRED = "barred"  # what it wrote for one of them cannot be committed, and is still there
    REQUEUED = "requeued"  # jobs of one kind are back in their queue
    CLEANUP_UNLINKED = "cleanup-unlinked"  # inputs are gone, which is not noted yet
    EXPIRED = "expired"  # an unread result's hash is gone, its segment is there
    DEAD_EXPIRED = "dead-expired"  # inputs of a dead job are gone, its entry is there


def parse(value: str) -> tuple[Fault, int]:
    """Where to die and at which visit, from `point` or `point:count`; raises ValueError."""
    name, _, count = value.partition(":")
    try:
        if (visits := int(count or 1)) > 0:
            return Fault(name), visits
    except ValueError:
        pass
    raise ValueError(
        f"{VARIABLE}={value!r}: one of {', '.join(Fault)} is needed, with :count or without"
    )


if _value := os.environ.get(VARIABLE):
    try:
        _fatal, _visits_left = parse(_value)
    except ValueError as error:  # this is imported before anything that could report it
        sys.exit(f"{error}")
    _lock = threading.Lock()

    def fault_point(fault: Fault) -> None:
        """Die here, if that is wanted and it is time."""
        global _visits_left
        if fault is not _fatal:
            return
        with _lock:
            _visits_left -= 1
            if _visits_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

else:

    def fault_point(fault: Fault) -> None:
        """Nothing."""
