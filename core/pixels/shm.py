"""Reads, writes and unlinks POSIX shared-memory segments that other programs share.

On Linux a segment is a file in /dev/shm. It is read and written here as a file, not mapped: a
sender that truncates a mapped segment would kill this process with SIGBUS. Python's
`SharedMemory` (before 3.13) also unlinks segments that the process has only attached.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import mmap
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from core.errors import (
    BadMessage,
    JobError,
    OutOfSharedMemory,
    SharedMemoryRefusal,
    TransientFailure,
    WorkerError,
)
from core.faults import Fault, fault_point

log = logging.getLogger(__name__)

SHM_FOLDER = "/dev/shm"  # noqa: S108 - this is not a temporary file

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    allowed_uids: Collection[int],
    place: Callable[[tuple[int, ...], np.dtype[np.generic]], npt.NDArray[np.generic]] = np.empty,
) -> tuple[npt.NDArray[np.generic], int]:
    """A copy of a segment's content as a C-ordered array, and the uid of the segment's owner.

    The caller has checked `name` (see `core.contract`) and the array's size. `place` allocates the
    array.

    Raises TransientFailure if there is no such segment, no memory or descriptor to read it with, or
    no permission although it may be read, and BadMessage if it is not a regular file, belongs to a
    uid outside `allowed_uids` or is smaller than the array.
    """
    with _opened(name, allowed_uids) as (descriptor, status):
        needed = math.prod(shape) * dtype.itemsize
        if status.st_size < needed:
            raise BadMessage(
                "segment_too_small",
                f"segment {name!r} has {status.st_size} bytes, shape {list(shape)} of {dtype} "
                f"needs {needed}",
            )
        array = place(shape, dtype)
        # A memoryview can be cast to bytes only if it has the machine's byte order.
        _read_fully(descriptor, name, array.view(np.uint8).data.cast("B"))
        return array, status.st_uid


def check_readable(name: str, allowed_uids: Collection[int]) -> None:
    """Open a segment as `read` does, and raise what it raises."""
    with _opened(name, allowed_uids):
        pass


def write(
    name: str, array: npt.NDArray[np.generic], mode: int, owned_by: int | None = None
) -> None:
    """Create a new segment with the content of an array, in C order.

    If this process is root, it gives the segment to `owned_by`: in /dev/shm only root and a file's
    owner may unlink it.

    Its pages are reserved before anything is written, so that a full /dev/shm is an error here and
    not a SIGBUS in the segment's reader. After an error nothing is left behind.

    Raises OutOfSharedMemory if there is no room, SharedMemoryRefusal if this process may not write
    there, FileExistsError if the name is taken.
    """
    try:
        descriptor = os.open(_path(name), _CREATE_FLAGS, mode)
    except OSError as error:
        raise _named(error, array.nbytes) or error from None
    try:
        os.fchmod(descriptor, mode)  # open() has applied the umask
        _give(descriptor, owned_by)
        fault_point(Fault.SEGMENT_CREATED)
        os.posix_fallocate(descriptor, 0, array.nbytes)
        fault_point(Fault.SEGMENT_RESERVED)
        _write_fully(descriptor, np.ascontiguousarray(array).data.cast("B"))
    except BaseException as error:
        os.unlink(_path(name))
        if named := _named(error, array.nbytes):
            raise named from None
        raise
    finally:
        os.close(descriptor)


def check_writable(owned_by: int | None = None) -> None:
    """Raise SharedMemoryRefusal if `write` would; a file without a name is created and given away.

    Returns if this cannot be found out: there is no room, or the file system has no such files.
    """
    try:
        descriptor = os.open(SHM_FOLDER, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if refusal := _refusal(error):
            raise refusal from None
        return
    try:
        _give(descriptor, owned_by)
    finally:
        os.close(descriptor)


def unlink(name: str, allowed_uids: Collection[int]) -> bool:
    """Remove a segment; False if there was none.

    A file that is not regular or belongs to a uid outside `allowed_uids` is kept: another program
    has reused the name after the segment was read.
    """
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(_path(name))
        if stat.S_ISREG(status.st_mode) and status.st_uid in allowed_uids:
            os.unlink(_path(name))
            fault_point(Fault.UNLINKED)
            return True
    return False


def unlink_all(names: Iterable[str], allowed_uids: Collection[int]) -> None:
    """Remove segments as `unlink` does; logs those that cannot be removed.

    Raises SharedMemoryRefusal if the folder is read-only: another process can remove them.
    """
    for name in names:
        try:
            unlink(name, allowed_uids)
        except OSError as error:
            if error.errno == errno.EROFS and (refusal := _refusal(error)):
                raise refusal from None
            log.warning("segment %s cannot be unlinked: %s", name, error.strerror)


def not_unlinkable(uids: Collection[int]) -> list[int]:
    """Those of the uids whose segments this process cannot unlink.

    In a folder with the sticky bit only a file's owner, the folder's owner and root can.
    """
    folder = os.stat(SHM_FOLDER)
    if os.geteuid() in (0, folder.st_uid) or not folder.st_mode & stat.S_ISVTX:
        return []
    return sorted(set(uids) - {os.geteuid()})


def owner(name: str) -> int:
    """The uid of a segment's owner; raises FileNotFoundError if there is no such segment."""
    return os.lstat(_path(name)).st_uid


def names() -> list[str]:
    """The names of all segments, of all programs."""
    return os.listdir(SHM_FOLDER)


def exists(name: str) -> bool:
    """Whether there is a segment of this name, of any owner."""
    return os.path.lexists(_path(name))


def require_room(size: int) -> None:
    """Raise OutOfSharedMemory unless a segment of this size could be written now."""
    status = os.statvfs(SHM_FOLDER)
    is_full = status.f_blocks and footprint(size) > status.f_bavail * status.f_frsize
    if is_full or (status.f_files and not status.f_favail):
        raise _out_of_room(size, errno.ENOSPC)


def size_bytes() -> int:
    """Total size of /dev/shm in bytes; 0 if it has no limit."""
    status = os.statvfs(SHM_FOLDER)
    return status.f_blocks * status.f_frsize


def footprint(size: int) -> int:
    """Bytes that a segment of this size occupies: whole pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def free_bytes() -> int:
    """Free bytes in /dev/shm."""
    status = os.statvfs(SHM_FOLDER)
    return status.f_bavail * status.f_frsize


def _path(name: str) -> str:
    return f"{SHM_FOLDER}/{name}"


@contextlib.contextmanager
def _opened(name: str, allowed_uids: Collection[int]) -> Iterator[tuple[int, os.stat_result]]:
    """The descriptor and the status of a segment that may be read."""
    descriptor = _open_for_reading(name, allowed_uids)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadMessage("not_a_segment", f"{name!r} is not a shared-memory segment")
        if status.st_uid not in allowed_uids:
            raise _foreign(name, status.st_uid)
        yield descriptor, status
    finally:
        os.close(descriptor)


def _open_for_reading(name: str, allowed_uids: Collection[int]) -> int:
    try:
        return os.open(_path(name), _READ_FLAGS)
    except FileNotFoundError:
        raise _missing(name) from None
    except PermissionError as error:
        raise _not_permitted(name, error, allowed_uids) from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR):
            raise TransientFailure(
                "out_of_resources", f"segment {name!r} cannot be opened: {error.strerror}"
            ) from None
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise BadMessage("not_a_segment", f"{name!r} is not a shared-memory segment") from None
        raise _unreadable(name, error, "try `python worker.py doctor` here") from None


def _missing(name: str) -> TransientFailure:
    return TransientFailure(
        "segment_missing",
        f"there is no segment {name!r}: its sender removed it (Python before 3.13 does so when the "
        "sender exits: docs/contract.md has the remedy), or its /dev/shm is not this worker's (are "
        "both containers in one IPC namespace?)",
    )


def _not_permitted(name: str, error: OSError, allowed_uids: Collection[int]) -> JobError:
    """Why a segment cannot be opened: its owner and mode forbid it, or something else does."""
    try:
        status = os.lstat(_path(name))
    except FileNotFoundError:
        return _missing(name)
    except OSError as of_folder:
        return _unreadable(name, of_folder, f"let uid {os.geteuid()} search {SHM_FOLDER}")
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in allowed_uids:
        return _foreign(name, status.st_uid, mode)
    if _is_granted(status):
        return _unreadable(
            name,
            error,
            f"uid {status.st_uid} and mode {mode:04o} let uid {os.geteuid()} read it, so a "
            "security module forbids it: look for a denial of SELinux (ausearch -m avc) or "
            "AppArmor (dmesg), and give sender and worker one label",
        )
    if os.geteuid() == 0:
        return _unreadable(
            name,
            error,
            f"it has uid {status.st_uid} and mode {mode:04o}, and this worker is root without the "
            "capability CAP_DAC_OVERRIDE: add it, or run both under one uid",
        )
    if status.st_uid == os.geteuid():
        return _unreadable(
            name, error, f"its mode {mode:04o} keeps its own owner out, it must be 0600"
        )
    return _foreign(name, status.st_uid, mode)


def _is_granted(status: os.stat_result) -> bool:
    """Whether owner, group and mode alone let this process read a file."""
    if status.st_uid == os.geteuid():
        return bool(status.st_mode & stat.S_IRUSR)
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return bool(status.st_mode & stat.S_IRGRP)
    return bool(status.st_mode & stat.S_IROTH)


def _unreadable(name: str, error: OSError, cause: str) -> TransientFailure:
    return TransientFailure(
        "segment_unreadable", f"segment {name!r} cannot be opened: {error.strerror}: {cause}"
    )


def _foreign(name: str, owner: int, forbidding_mode: int | None = None) -> BadMessage:
    if forbidding_mode is None:
        remedy = "run both under one uid, or allow the other one in SHM_ALLOWED_UIDS"
    else:
        remedy = f"its mode {forbidding_mode:04o} keeps the worker out, run both under one uid"
    return BadMessage(
        "foreign_segment",
        f"segment {name!r} belongs to uid {owner}, this worker runs as uid {os.geteuid()}: "
        f"{remedy}",
    )


def _read_fully(descriptor: int, name: str, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], done)
        if count == 0:
            raise BadMessage(
                "segment_too_small",
                f"segment {name!r} was cut to {done} of {len(buffer)} bytes while it was read",
            )
        done += count


def _give(descriptor: int, owner: int | None) -> None:
    """Make a uid the owner of a segment, if this process is root."""
    if owner is None or os.geteuid() != 0:
        return
    try:
        os.fchown(descriptor, owner, -1)
    except PermissionError:
        raise SharedMemoryRefusal(
            f"this worker is root without the capability CAP_CHOWN, so it cannot give results to "
            f"uid {owner}, which has to unlink them: add it, or run both under one uid"
        ) from None


def _named(error: BaseException, size: int) -> WorkerError | None:
    """The error of a write that is not the job's fault; None if it may be."""
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
        return _out_of_room(size, error.errno)
    if error.errno == errno.EFBIG:
        return TransientFailure(
            "internal_error",
            f"the limit on the size of files lets this worker write no segment of {size} bytes: "
            "raise it (ulimit -f)",
        )
    return _refusal(error)


def _refusal(error: OSError) -> SharedMemoryRefusal | None:
    if error.errno == errno.EROFS:
        return SharedMemoryRefusal(
            f"{SHM_FOLDER} is mounted read-only, so no result can be written: mount it writable"
        )
    if error.errno not in (errno.EACCES, errno.EPERM):
        return None
    folder = os.stat(SHM_FOLDER)
    return SharedMemoryRefusal(
        f"uid {os.geteuid()} may not write to {SHM_FOLDER} ({error.strerror}; it has uid "
        f"{folder.st_uid} and mode {stat.S_IMODE(folder.st_mode):04o}): run the worker under that "
        "uid, or give the folder mode 1777"
    )


def _out_of_room(size: int, number: int) -> OutOfSharedMemory:
    return OutOfSharedMemory(
        f"{SHM_FOLDER} has no room for {size} bytes ({free_bytes()} are free): "
        f"{os.strerror(number)}"
    )


def _write_fully(descriptor: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], done)
