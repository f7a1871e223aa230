"""Standard error that no thread waits for: what nobody reads is dropped and counted.

A pipe, a socket or a terminal has room for some kilobytes. Once its reader stalls, a write waits
for ever, and with it the event loop.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

#: Seconds that writes may wait for a reader, all together.
PATIENCE_S: Final = 1.0

#: How much of that comes back for each second without an outage: a reader that is always late costs
#: no larger part of the time.
REFILL: Final = 1 / 60

#: Seconds between two looks at a device that is writable, but not for as much.
PAUSE_S: Final = 0.001

#: The most bytes for which a pipe has room once it polls as writable.
CHUNK: Final = select.PIPE_BUF

#: Makes the line about dropped ones from their number, the seconds of the outage, and the error,
#: which is empty if nobody read.
Notice = Callable[[int, float, str], str]


class Output(io.RawIOBase):
    """A descriptor, written without waiting for its reader for long, and without errors.

    The bytes of one call are a line. A line arrives whole, or is dropped if it cannot be begun. The
    rest of one that was begun is kept, and written before anything else. Once lines can be written
    again, the next `write` or `flush` says how many were dropped.
    """

    def __init__(self, descriptor: int, notice: Notice) -> None:
        """The descriptor may get another open file description, and is not closed."""
        super().__init__()
        self.dropped = 0  #: lines, in all
        self._descriptor = descriptor
        self.notice = notice
        self._lock = threading.RLock()
        self._is_busy = False
        self._rest = b""  # of a line that was begun
        self._missing = 0  # lines that no notice has counted
        self._outage_at: float | None = None  # when an outage began, until all of it is told
        self._error = ""
        self._patience = PATIENCE_S
        self._refilled_at = time.monotonic()
        mode = os.fstat(descriptor).st_mode
        self._send = _send if stat.S_ISSOCK(mode) else os.write
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            _reopen(descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Write or drop a line; returns its number of bytes."""
        line = bytes(data)
        self._put(line)
        return len(line)

    def flush(self) -> None:
        """Write what is left of a line that was begun, and the notice, if there is room at once."""
        if self._rest or self._missing:
            self._put(b"")

    def _put(self, line: bytes) -> None:
        with self._lock:
            if self._is_busy:  # a finalizer or a signal handler, in the midst of a line
                self._drop(line)
                return
            self._is_busy = True
            try:
                self._refill()
                if not (self._catch_up() and self._begin(line)):
                    self._drop(line)
            finally:
                self._is_busy = False

    def _drop(self, line: bytes) -> None:
        if line:
            self.dropped += 1
            self._missing += 1

    def _catch_up(self) -> bool:
        """Write the rest and the notice; whether that is done."""
        self._push()
        if self._rest:
            return False
        if missing := self._missing:
            outage_s = 0.0 if self._outage_at is None else time.monotonic() - self._outage_at
            text = self.notice(missing, outage_s, self._error)
            if not self._begin(text.encode(errors="backslashreplace")):
                return False
            self._missing -= missing
        if self._rest:
            return False
        self._outage_at = None
        return True

    def _begin(self, line: bytes) -> bool:
        """Write a line; False if none of it could be written."""
        self._rest = line
        self._push()
        if line and len(self._rest) == len(line):
            self._rest = b""
            return False
        return True

    def _push(self) -> None:
        """Write the rest, as far as there is room."""
        is_refused = False
        try:
            while self._rest:
                if not (self._wait_for_room() if is_refused else self._has_room()):
                    self._fail("")
                    return
                try:
                    sent = self._send(self._descriptor, self._rest[:CHUNK])
                    self._rest = self._rest[sent:]
                    is_refused = False
                except BlockingIOError:  # another process took the room, or it is too small
                    is_refused = True
        except OSError as error:
            self._fail(error.strerror or str(error))

    def _has_room(self) -> bool:
        return bool(self._poll.poll(0)) or self._wait_for_room()

    def _wait_for_room(self) -> bool:
        """Wait until a chunk can be written, while there is patience; whether it can."""
        if self._patience <= 0:
            return False
        began = time.monotonic()
        time.sleep(PAUSE_S)  # after which a device with too little room has more
        has_room = bool(self._poll.poll(self._patience * 1000))
        self._patience -= time.monotonic() - began
        return has_room

    def _refill(self) -> None:
        now = time.monotonic()
        if self._outage_at is None:
            regained = (now - self._refilled_at) * REFILL
            self._patience = min(PATIENCE_S, max(0.0, self._patience) + regained)
        self._refilled_at = now

    def _fail(self, error: str) -> None:
        self._error = error
        if self._outage_at is None:
            self._outage_at = time.monotonic()


def unblock_standard_error(notice: Notice) -> Output | None:
    """Make `sys.stderr` an `Output`, so that warnings and tracebacks use it as well as the log.

    None if it has no descriptor: it is closed, or replaced by a test.
    """
    if sys.stderr is None:
        _occupy(2)
        return None
    present = getattr(sys.stderr, "buffer", None)
    if isinstance(present, Output):
        present.notice = notice
        return present
    try:
        output = Output(sys.stderr.fileno(), notice)
    except (AttributeError, OSError, ValueError):
        return None
    sys.stderr = io.TextIOWrapper(
        output,
        encoding=sys.stderr.encoding,
        errors="backslashreplace",
        line_buffering=True,  # so that each line, or line with its traceback, is one write
    )
    return output


def _reopen(descriptor: int) -> None:
    """Give the descriptor of a pipe or terminal an open file description without blocking.

    The one that it has is shared with other processes, so its flags are not ours to change. Without
    blocking, a write fails where another process has taken the room since `poll`; native code that
    writes there fails too, where it would wait for ever. Permission may be missing, if another user
    made the pipe: then the race remains, and `poll` is what keeps writes from waiting.
    """
    with contextlib.suppress(OSError):
        own = os.open(
            f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        )
        os.dup2(own, descriptor)
        os.close(own)


def _send(descriptor: int, data: bytes) -> int:
    """Send to a socket without waiting, whatever its flags."""
    connection = socket.socket(fileno=descriptor)
    try:
        return connection.send(data, socket.MSG_DONTWAIT)
    finally:
        connection.detach()


def _occupy(descriptor: int) -> None:
    """Keep the number of a closed descriptor from a socket or file: libraries write there."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
