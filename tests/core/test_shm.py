"""Segments: read, written and removed without harm to their owners or to this process."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import numpy as np
import pytest

from core.errors import BadMessage, OutOfSharedMemory, TransientFailure
from core.pixels import shm
from harness.workers import OWN

UIDS = frozenset({os.geteuid()})
UINT8 = np.dtype("uint8")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def name(shm_baseline: None) -> Iterator[str]:
    """A name that is free, and is free again afterwards."""
    chosen = f"img_shm_{OWN}"
    yield chosen
    path = Path("/dev/shm", chosen)
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def read(name: str, shape: tuple[int, ...] = (4, 4), uids: frozenset[int] = UIDS) -> np.ndarray:
    return shm.read(name, shape, UINT8, uids)[0]


def test_what_was_written_is_read_back(name: str) -> None:
    array = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    shm.write(name, array, 0o600)
    content, owner = shm.read(name, (4, 5, 3), array.dtype, UIDS)
    assert np.array_equal(content, array)
    assert owner == os.geteuid()
    assert os.stat(f"/dev/shm/{name}").st_size == array.nbytes


def test_an_array_that_is_not_contiguous_is_written_in_order(name: str) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)[::-1, :, ::-1]
    shm.write(name, array, 0o600)
    assert np.array_equal(read(name, (4, 5, 3)), array)


def test_the_mode_does_not_depend_on_the_umask(name: str) -> None:
    old = os.umask(0o077)
    try:
        shm.write(name, np.zeros(1, np.uint8), 0o666)
    finally:
        os.umask(old)
    assert os.stat(f"/dev/shm/{name}").st_mode & 0o777 == 0o666


def test_a_segment_of_pythons_shared_memory_is_read_and_outlives_this_process(name: str) -> None:
    segment = shared_memory.SharedMemory(name, create=True, size=16)
    assert segment.buf is not None
    segment.buf[:16] = bytes(range(16))
    program = (
        "import os, numpy as np; from core.pixels import shm;"
        f"a, _ = shm.read({name!r}, (4, 4), np.dtype('uint8'), {{os.geteuid()}});"
        "print(int(a.sum()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("120\n", "")
    assert Path("/dev/shm", name).exists()
    segment.close()
    resource_tracker.unregister(f"/{name}", "shared_memory")


def test_a_missing_segment_is_a_failure_that_may_pass(name: str) -> None:
    with pytest.raises(TransientFailure, match=name) as caught:
        read(name)
    assert caught.value.reason == "segment_missing"


def test_a_segment_smaller_than_its_shape_is_refused_before_it_is_read(name: str) -> None:
    shm.write(name, np.zeros(15, np.uint8), 0o600)
    with pytest.raises(BadMessage, match="15 bytes") as caught:
        read(name)
    assert caught.value.reason == "segment_too_small"


def test_a_segment_may_be_larger_than_its_payload(name: str) -> None:
    shm.write(name, np.full(4096, 7, np.uint8), 0o600)
    assert read(name).tolist() == [[7] * 4] * 4


def test_a_sender_that_cuts_a_segment_while_it_is_read_causes_an_error_at_most(name: str) -> None:
    size = 1 << 22
    shm.write(name, np.ones(size, np.uint8), 0o600)
    stop = threading.Event()

    def cut() -> None:
        while not stop.is_set():
            os.truncate(f"/dev/shm/{name}", 0)
            os.truncate(f"/dev/shm/{name}", size)

    cutter = threading.Thread(target=cut)
    cutter.start()
    outcomes = set()
    try:
        for _ in range(300):
            try:
                read(name, (size,))
                outcomes.add("read")
            except BadMessage as error:
                outcomes.add(error.reason)
    finally:
        stop.set()
        cutter.join()
    assert outcomes <= {"read", "segment_too_small"}
    assert "segment_too_small" in outcomes


def test_nothing_but_a_regular_file_is_opened(name: str) -> None:
    path = Path("/dev/shm", name)
    secret = Path("/dev/shm", f"{name}.secret")
    secret.write_bytes(b"x" * 16)
    try:
        path.symlink_to(secret)
        with pytest.raises(BadMessage) as caught:
            read(name)
        assert caught.value.reason == "not_a_segment"
        assert "secret" not in str(caught.value)
        assert not shm.unlink(name, UIDS)
        assert path.is_symlink()
        path.unlink()
    finally:
        secret.unlink()
    path.mkdir()
    with pytest.raises(BadMessage):
        read(name)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(BadMessage):
        read(name)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with pytest.raises(BadMessage):
            read(name)
    assert not shm.unlink(name, UIDS)


def test_a_segment_of_another_uid_is_refused_and_the_error_names_both(name: str) -> None:
    shm.write(name, np.zeros(16, np.uint8), 0o644)
    other = frozenset({54321})
    with pytest.raises(BadMessage, match=rf"uid {os.geteuid()}.*uid {os.geteuid()}") as caught:
        read(name, uids=other)
    assert caught.value.reason == "foreign_segment"
    assert not shm.unlink(name, other)
    assert read(name).sum() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a segment to another uid")
def test_root_refuses_the_segment_of_another_uid_unless_it_is_allowed(name: str) -> None:
    shm.write(name, np.zeros(16, np.uint8), 0o600)
    os.chown(f"/dev/shm/{name}", 54321, -1)
    with pytest.raises(BadMessage, match=r"uid 54321.*uid 0"):
        read(name)
    assert read(name, uids=UIDS | {54321}).sum() == 0
    assert shm.unlink(name, UIDS | {54321})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_segment_that_the_mode_keeps_shut_names_both_uids(name: str) -> None:
    shm.write(name, np.zeros(16, np.uint8), 0o600)
    program = (
        "import os, numpy as np; from core import errors\nfrom core.pixels import shm\n"
        "os.setuid(54321)\n"
        f"try: shm.read({name!r}, (4, 4), np.dtype('uint8'), {{54321}})\n"
        "except errors.BadMessage as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert "uid 0" in done.stdout, done.stderr
    assert "uid 54321" in done.stdout
    assert "mode 0600" in done.stdout


def forbid(monkeypatch: pytest.MonkeyPatch, number: int = errno.EACCES) -> None:
    """Every open fails, as if a security module forbade it."""

    def refuse(path: str, *_: object) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("core.pixels.shm.os.open", refuse)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_segment_of_ones_own_that_a_security_module_shuts_names_that_and_is_tried_again(
    name: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    shm.write(name, np.zeros(16, np.uint8), 0o600)
    forbid(monkeypatch, number)
    with pytest.raises(TransientFailure) as caught:
        read(name)
    assert caught.value.reason == "segment_unreadable"
    uid, text = os.geteuid(), str(caught.value)
    assert f"{name!r} cannot be opened: {os.strerror(number)}: " in text
    assert f"uid {uid} and mode 0600 let uid {uid} read it" in text
    assert "SELinux" in text
    assert "AppArmor" in text
    assert "belongs to" not in text
    with pytest.raises(TransientFailure):
        shm.check_readable(name, UIDS)


def test_a_segment_of_another_uid_is_foreign_even_if_a_security_module_shuts_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shm.write(name, np.zeros(16, np.uint8), 0o600)
    forbid(monkeypatch)
    with pytest.raises(BadMessage) as caught:
        read(name, uids=frozenset({54321}))
    assert caught.value.reason == "foreign_segment"


def test_a_segment_that_vanishes_while_it_is_opened_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    with pytest.raises(TransientFailure) as caught:
        read(name)
    assert caught.value.reason == "segment_missing"


def test_another_error_of_the_system_is_told_with_its_text_and_tried_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shm.write(name, np.zeros(16, np.uint8), 0o600)
    forbid(monkeypatch, errno.EIO)
    with pytest.raises(TransientFailure, match="Input/output error") as caught:
        read(name)
    assert caught.value.reason == "segment_unreadable"


def read_by(prelude: str, name: str) -> str:
    """The reason and the text that a process gets at reading a segment, after it ran `prelude`."""
    program = (
        "import os, numpy as np; from core import errors\nfrom core.pixels import shm\n"
        f"{prelude}\n"
        f"try: shm.read({name!r}, (4, 4), np.dtype('uint8'), {{os.geteuid(), 12345}})\n"
        "except errors.JobError as error: print(error.reason, error)\n"
        "else: print('read')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.stdout, done.stderr
    return done.stdout


#: Gives up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (bits 1 and 2), as `cap_drop` does.
DROP = (
    "import ctypes; libc = ctypes.CDLL(None); header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
    "data = (ctypes.c_uint32 * 6)(); assert libc.capget(header, data) == 0\n"
    "data[0] &= ~6; data[1] &= ~6; assert libc.capset(header, data) == 0"
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")
def test_root_without_its_capability_is_told_which_one_is_missing(name: str) -> None:
    shm.write(name, np.zeros(16, np.uint8), 0o600)
    assert read_by(DROP, name) == "read\n"
    os.chown(f"/dev/shm/{name}", 12345, -1)
    text = read_by(DROP, name)
    assert text.startswith("segment_unreadable ")
    assert "it has uid 12345 and mode 0600" in text
    assert "root without the capability CAP_DAC_OVERRIDE" in text
    assert read_by("", name) == "read\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("owner", "mode", "cause"),
    [
        (54321, 0o200, "segment_unreadable .*its mode 0200 keeps its own owner out"),
        (12345, 0o600, "foreign_segment .*belongs to uid 12345, this worker runs as uid 54321"),
        (12345, 0o644, "read"),
    ],
)
def test_a_user_that_a_mode_keeps_out_is_told_whose_mode_it_is(
    name: str, owner: int, mode: int, cause: str
) -> None:
    shm.write(name, np.zeros(16, np.uint8), mode)
    os.chown(f"/dev/shm/{name}", owner, -1)
    assert re.match(cause, read_by("os.setuid(54321)", name))


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2", "<f4", "?"])
def test_an_array_of_any_byte_order_is_read(name: str, dtype: str) -> None:
    array = np.arange(60).reshape(4, 5, 3).astype(dtype)
    shm.write(name, array.view(np.uint8), 0o600)
    content, _ = shm.read(name, (4, 5, 3), array.dtype, UIDS)
    assert content.dtype == array.dtype
    assert np.array_equal(content, array)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_cannot_unlink_what_is_named_as_such(name: str) -> None:
    assert shm.not_unlinkable({0, 54321}) == []
    shm.write(name, np.zeros(16, np.uint8), 0o644)
    os.seteuid(54321)
    try:
        assert read(name, uids=frozenset({0})).sum() == 0
        assert shm.not_unlinkable({0, 54321}) == [0]
        with pytest.raises(PermissionError):
            shm.unlink(name, {0})
    finally:
        os.seteuid(0)


def test_a_name_that_is_taken_is_never_overwritten(name: str) -> None:
    shm.write(name, np.ones(16, np.uint8), 0o600)
    with pytest.raises(FileExistsError):
        shm.write(name, np.zeros(16, np.uint8), 0o600)
    assert read(name).all()


def test_a_full_shm_is_an_error_and_leaves_nothing_behind(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Huge:
        """An array that is larger than any /dev/shm."""

        nbytes = 1 << 60

    with pytest.raises(OutOfSharedMemory, match="no room"):
        shm.write(name, Huge(), 0o600)  # type: ignore[arg-type]
    assert not Path("/dev/shm", name).exists()


def test_unlinking_what_is_not_there_is_no_error(name: str) -> None:
    assert not shm.unlink(name, UIDS)
    shm.write(name, np.zeros(1, np.uint8), 0o600)
    assert shm.unlink(name, UIDS)
