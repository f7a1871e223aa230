"""Files that no job owns, watched for every access."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path

from harness.jobs import CANVAS
from harness.wire import DEV_SHM
from harness.workers import OWN


class Bystanders:
    """Files that no job owns; each access to them is noticed by the kernel (inotify)."""

    IN_ACCESS, IN_OPEN, IN_DELETE_SELF, IN_MODIFY = 0x1, 0x20, 0x400, 0x2

    def __init__(self, folder: Path) -> None:
        self.outside = folder / "outside"
        self.allowed = f"img_shm_{OWN}bystander"
        self.foreign = f"other_shm_{OWN}bystander"
        self.semaphore = f"sem.shm_{OWN}bystander"
        self.result = f"img_shm_{OWN}host-1-{'0a' * 6}-{'0b' * 6}-7"
        names = (self.allowed, self.foreign, self.semaphore, self.result)
        self.files = [self.outside, *(DEV_SHM / name for name in names)]
        for number, path in enumerate(self.files):
            path.write_bytes(self._content(number))
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watch = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._watch >= 0
        events = self.IN_ACCESS | self.IN_OPEN | self.IN_DELETE_SELF | self.IN_MODIFY
        self._watched = {
            self._libc.inotify_add_watch(self._watch, os.fsencode(path), events): path
            for path in self.files
        }
        assert min(self._watched) > 0
        # The watch works: this access of our own is seen.
        self.outside.read_bytes()
        assert self.touched() == {str(self.outside)}

    @staticmethod
    def _content(number: int) -> bytes:
        return bytes([number + 1]) * (CANVAS[0] * CANVAS[1] * 3)

    def touched(self) -> set[str]:
        """The files that were opened, read, written or removed since the last call."""
        seen = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._watch, 1 << 16):
                while data:
                    number, _, _, length = struct.unpack_from("iIII", data)
                    seen.add(str(self._watched[number]))
                    data = data[16 + length :]
        return seen

    def harmed(self) -> list[str]:
        """What has changed; to be called once, at the end."""
        harm = [f"{path} was opened or removed" for path in sorted(self.touched())]
        for number, path in enumerate(self.files):
            if not path.exists() or path.read_bytes() != self._content(number):
                harm.append(f"{path} was changed")
        return harm

    def close(self) -> None:
        os.close(self._watch)
        for path in self.files:
            path.unlink(missing_ok=True)
