"""Mutations of the segments: missing, cut, of another kind, or with strange numbers."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from chaos.hostile.case import IMAGE, MASK, Case, Fate, of_segment
from harness.wire import DEV_SHM

FOREIGN_UID = 54321


def _which(case: Case) -> tuple[str, Path]:
    which = case.rng.choice([IMAGE, MASK])
    return which, case.path(which)


@of_segment
def missing(case: Case) -> Fate:
    _which(case)[1].unlink()
    return "dead"


@of_segment
def too_small(case: Case) -> Fate:
    _, path = _which(case)
    os.truncate(path, case.rng.choice([0, 1, path.stat().st_size - 1]))
    return "dead"


@of_segment
def larger(case: Case) -> Fate:
    _, path = _which(case)
    os.truncate(path, case.rng.choice([path.stat().st_size + 4096, 1 << 40]))
    return "delivered"


@of_segment
def a_link(case: Case) -> Fate:
    _, path = _which(case)
    path.unlink()
    there = case.bystanders
    path.symlink_to(case.rng.choice([there.outside, DEV_SHM / there.allowed, Path("/dev/zero")]))
    return "dead"


@of_segment
def a_folder(case: Case) -> Fate:
    _, path = _which(case)
    path.unlink()
    path.mkdir()
    return "dead"


@of_segment
def a_fifo(case: Case) -> Fate:
    _, path = _which(case)
    path.unlink()
    os.mkfifo(path)
    return "dead"


@of_segment
def a_socket(case: Case) -> Fate:
    _, path = _which(case)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return "dead"


@of_segment
def foreign(case: Case) -> Fate:
    if os.geteuid() != 0:
        return "delivered"
    os.chown(_which(case)[1], FOREIGN_UID, -1)
    return "dead"


@of_segment
def shut(case: Case) -> Fate:
    _which(case)[1].chmod(0)
    return "delivered" if os.geteuid() == 0 else "dead"


@of_segment
def no_finite_numbers(case: Case) -> Fate:
    which, path = _which(case)
    dtype = case.rng.choice(["float16", "float32", "float64"])
    value = case.rng.choice([np.nan, np.inf, -np.inf])
    array = np.zeros(case.message[which]["shape"], dtype)
    array.flat[case.rng.randrange(array.size)] = value
    path.write_bytes(array.tobytes())
    case.message[which] |= {"dtype": dtype, "size": array.nbytes}
    return "dead"


@of_segment
def huge_numbers(case: Case) -> Fate:
    which, path = _which(case)
    array = np.full(case.message[which]["shape"], case.rng.choice([1e300, -1e300, 5e-324]))
    path.write_bytes(array.tobytes())
    case.message[which] |= {"dtype": "float64", "size": array.nbytes}
    return "either"


@of_segment
def any_bits_as_numbers(case: Case) -> Fate:
    which, path = _which(case)
    shape = case.message[which]["shape"]
    dtype = np.dtype(case.rng.choice(["float16", "float32", "float64", "bool"]))
    size = int(np.prod(shape)) * dtype.itemsize
    path.write_bytes(case.rng.randbytes(size))
    case.message[which] |= {"dtype": dtype.name, "size": size}
    return "either"


@of_segment
def cut_while_it_is_read(case: Case) -> Fate:
    """Done by `cutting`, until the batch is over."""
    return "either"


@contextlib.contextmanager
def cutting(cases: list[Case]) -> Iterator[None]:
    paths = [case.paths[0] for case in cases if "cut_while_it_is_read" in case.done]
    stop = threading.Event()

    def cut() -> None:
        while paths and not stop.wait(0.0005):
            for path in paths:
                with contextlib.suppress(OSError):  # by now it is done, and unlinked
                    size = path.stat().st_size
                    os.truncate(path, 0)
                    os.truncate(path, size)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
