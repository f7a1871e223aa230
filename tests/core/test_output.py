"""Standard error that nobody reads, or that cannot be written."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import select
import socket
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.telemetry import output as module
from core.telemetry.output import PATIENCE_S, Output, unblock_standard_error

#: Two pages: while there is one free, a pipe is writable.
ROOM = 8192


def notice(count: int, outage_s: float, error: str) -> str:
    return f"[{count} dropped: {error or 'nobody read'}]\n"


class Pipe:
    """A pipe with little room."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, ROOM)

    def read(self) -> bytes:
        """What is in it."""
        found = b""
        while select.select([self.reader], [], [], 0)[0] and (some := os.read(self.reader, ROOM)):
            found += some
        return found

    def fill(self) -> bytes:
        """Take all room, as another process may."""
        return b"x" * os.write(self.writer, b"x" * ROOM)

    def close(self) -> None:
        for descriptor in (self.reader, self.writer):
            os.close(descriptor)


@pytest.fixture(params=["reopened", "shared"])
def pipe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    """Pipes of which the output has a description of its own, or may not have one."""
    if request.param == "shared":
        monkeypatch.setattr(module, "_reopen", lambda _: None)
    made = Pipe()
    yield made
    made.close()


def test_lines_are_there_as_soon_as_they_are_written(pipe: Pipe) -> None:
    output = Output(pipe.writer, notice)
    output.write(b"one\n")
    assert pipe.read() == b"one\n"
    output.write(b"two\n")
    output.write(b"three\n")
    assert pipe.read() == b"two\nthree\n"
    assert output.dropped == 0


def test_an_unread_pipe_costs_its_patience_once_and_then_nothing(pipe: Pipe) -> None:
    output = Output(pipe.writer, notice)
    pipe.fill()
    began = time.monotonic()
    output.write(b"first\n")
    first_s = time.monotonic() - began
    assert PATIENCE_S <= first_s < 2 * PATIENCE_S
    began = time.monotonic()
    for _ in range(1000):
        output.write(b"other\n")
        output.flush()
    assert time.monotonic() - began < PATIENCE_S
    assert output.dropped == 1001


def test_what_was_dropped_is_told_before_the_next_line(pipe: Pipe) -> None:
    output = Output(pipe.writer, notice)
    full = pipe.fill()
    for _ in range(3):
        output.write(b"lost\n")
    assert pipe.read() == full
    output.write(b"next\n")
    assert pipe.read() == b"[3 dropped: nobody read]\nnext\n"
    pipe.fill()
    output.write(b"lost\n")
    pipe.read()
    output.flush()
    assert pipe.read() == b"[1 dropped: nobody read]\n"
    output.flush()
    assert pipe.read() == b""
    assert output.dropped == 4


def test_a_reader_that_is_always_late_costs_no_patience_each_time(pipe: Pipe) -> None:
    output = Output(pipe.writer, notice)
    began = time.monotonic()
    for _ in range(20):
        pipe.fill()
        output.write(b"lost\n")
        pipe.read()
        output.write(b"written\n")
        pipe.read()
    assert time.monotonic() - began < 2 * PATIENCE_S


def test_the_rest_of_a_line_that_was_begun_comes_before_anything_else(pipe: Pipe) -> None:
    output = Output(pipe.writer, notice)
    line = b"".join(b"%07d," % number for number in range(ROOM)) + b"\n"
    output.write(line)
    output.write(b"lost\n")
    received = b""
    while len(received) < len(line):
        received += pipe.read()
        output.write(b"lost\n")
    assert received[: len(line)] == line
    output.flush()
    received += pipe.read()
    told, *others = received[len(line) :].splitlines()
    assert told == b"[%d dropped: nobody read]" % output.dropped
    assert set(others) <= {b"lost"}


def test_a_line_that_is_longer_than_the_pipe_arrives_while_it_is_read(pipe: Pipe) -> None:
    output = Output(pipe.writer, notice)
    line = b"y" * (10 * ROOM) + b"\n"
    writer = threading.Thread(target=output.write, args=(line,))
    writer.start()
    received = b""
    while len(received) < len(line):
        received += os.read(pipe.reader, ROOM)
    writer.join()
    assert received == line


def test_the_flags_of_an_inherited_pipe_stay_as_they_are() -> None:
    made = Pipe()
    inherited = os.dup(made.writer)
    Output(made.writer, notice)
    assert os.get_blocking(inherited)
    assert not os.get_blocking(made.writer)
    os.close(inherited)
    made.close()


def test_room_that_another_process_takes_between_poll_and_write_is_waited_for_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Pipe()
    output = Output(made.writer, notice)
    full = made.fill()

    class Deceived:
        """It says that there is room."""

        def poll(self, _: float) -> list[object]:
            return [1]

    monkeypatch.setattr(output, "_poll", Deceived())
    output.write(b"lost\n")
    assert output.dropped == 1
    assert made.read() == full
    made.close()


def test_an_unread_socket_blocks_nobody() -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        output = Output(writer.fileno(), notice)
        while not output.dropped:
            output.write(b"a line of a log\n")
        assert writer.getblocking()
        output.write(b"lost\n")
        received = b""
        while not select.select([], [writer], [], 0)[1]:
            received += reader.recv(ROOM)
        output.write(b"next\n")
        while not received.endswith(b"next\n"):
            received += reader.recv(ROOM)
        first, *others = received.splitlines()
        assert others[-2:] == [b"[2 dropped: nobody read]", b"next"]
        assert {first, *others[:-2]} == {b"a line of a log"}


def test_a_terminal_that_is_stopped_blocks_nobody() -> None:
    screen, terminal = pty.openpty()
    tty.setraw(terminal)
    output = Output(terminal, notice)
    output.write(b"one\n")
    assert os.read(screen, ROOM) == b"one\n"
    termios.tcflow(terminal, termios.TCOOFF)  # what Ctrl-S does
    output.write(b"two\n")
    assert output.dropped == 1
    termios.tcflow(terminal, termios.TCOON)
    output.write(b"three\n")
    shown = b""
    while not shown.endswith(b"three\n"):
        shown += os.read(screen, ROOM)
    assert shown == b"[1 dropped: nobody read]\nthree\n"
    os.close(screen)
    output.write(b"four\n")
    assert output.dropped == 2
    os.close(terminal)


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    output = Output(full, notice)
    output.write(b"one\n")
    output.write(b"two\n")
    output.flush()
    os.close(full)
    assert output.dropped == 2


def test_a_disk_that_has_room_again_gets_the_rest_and_the_notice(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file:
        output = Output(file.fileno(), notice)
        send, room = os.write, [3]

        def write(descriptor: int, data: bytes) -> int:
            if not room[0]:
                raise OSError(28, "No space left on device")
            sent = send(descriptor, data[: room[0]])
            room[0] -= sent
            return sent

        output._send = write
        output.write(b"one\n")
        output.write(b"two\n")
        assert path.read_bytes() == b"one"
        room[0] = 1000
        output.write(b"three\n")
    assert path.read_bytes() == b"one\n[1 dropped: No space left on device]\nthree\n"


def test_a_pipe_without_a_reader_and_a_closed_descriptor_cost_lines_and_nothing_else() -> None:
    reader, writer = os.pipe()
    output = Output(writer, notice)
    os.close(reader)
    output.write(b"one\n")
    assert output.dropped == 1
    os.close(writer)
    output.write(b"two\n")
    output.flush()
    assert output.dropped == 2


def test_a_line_written_in_the_midst_of_another_one_breaks_neither(pipe: Pipe) -> None:
    output = Output(pipe.writer, notice)
    send = output._send

    def interrupted(descriptor: int, data: bytes) -> int:
        if output.dropped == 0:
            output.write(b"from a finalizer\n")
        return send(descriptor, data)

    output._send = interrupted
    output.write(b"one\n")
    output.flush()
    assert pipe.read() == b"one\n[1 dropped: nobody read]\n"


@pytest.mark.parametrize("replaced", [io.StringIO(), object()])
def test_a_standard_error_without_a_descriptor_stays_as_it_is(
    replaced: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", replaced)
    assert unblock_standard_error(notice) is None
    assert sys.stderr is replaced


def test_what_is_printed_and_warned_is_bounded_like_the_log(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with os.fdopen(os.dup(pipe.writer), "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        output = unblock_standard_error(notice)
        assert output is not None
        pipe.fill()
        print("printed", "by print", file=sys.stderr)
        logging.StreamHandler(sys.stderr).handle(
            logging.LogRecord("a", logging.INFO, "", 1, "%d is no number", ("x",), None)
        )
        assert output.dropped > 1
        pipe.read()
        assert unblock_standard_error(lambda *_: "[another notice]\n") is output
        print("printed", "later", file=sys.stderr)
        assert pipe.read() == b"[another notice]\nprinted later\n"
        monkeypatch.undo()
