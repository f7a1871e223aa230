"""What a path leads to. Importing this module does not load torch."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder, not a file",
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


def not_a_file(path: str | os.PathLike[str]) -> str | None:
    """What the path is, in a few words, if it is no file that could be opened; None if it is."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads back to itself"
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return f"can't be looked at: {error.strerror}"
        if path.is_symlink():
            return f"a link to {path.readlink()}, where there is no such file"
        return "no such file"
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "not a file")
