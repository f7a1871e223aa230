"""Stores of files: a local or mounted folder, or a URL of fsspec."""

from __future__ import annotations

import contextlib
import copy
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from bulk.errors import BulkRefused

#: Prefix of files that are being written; it hides them, so that none is taken for a picture.
PART = ".bulk-part-"

#: Files that operating systems leave in folders of pictures.
LITTER = frozenset({"thumbs.db", "desktop.ini"})


class Store(Protocol):
    """Files by name: relative paths with '/' between the parts."""

    def exists(self) -> bool:
        """Whether the place exists; `write` creates it."""

    def names(self) -> Iterator[str]:
        """The names of all files except hidden ones."""

    def filled_names(self) -> Iterator[str]:
        """Those of `names` that are not empty."""

    def below(self, folder: str) -> Store:
        """The store of a folder in this one, which need not exist; it may be hidden."""

    def read(self, name: str) -> bytes:
        """A file's content; raises OSError."""

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file atomically; raises OSError."""

    def remove(self, name: str) -> None:
        """Remove a file if it is there; raises OSError."""


class Folder:
    """A folder of the file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.links: list[Path] = []

    def exists(self) -> bool:
        return self.root.exists()

    def names(self) -> Iterator[str]:
        """Linked folders are entered too, but no folder twice: links may form a loop.

        `links` has the links to folders then.
        """
        if not self.root.exists():
            return
        entered = {_identity(self.root)}
        self.links = []
        yield from self._names_below(self.root, entered)
        for link in self.links:  # after all real folders; more are added meanwhile
            identity = _identity(link)
            if identity not in entered:
                entered.add(identity)
                yield from self._names_below(link, entered)

    def filled_names(self) -> Iterator[str]:
        for name in self.names():
            with contextlib.suppress(OSError):  # a link to nowhere
                if (self.root / name).stat().st_size:
                    yield name

    def below(self, folder: str) -> Folder:
        return Folder(self.root / folder)

    def _names_below(self, top: Path, entered: set[tuple[int, int]]) -> Iterator[str]:
        """The names of files below `top`, links to folders not followed."""
        for folder, below, files in os.walk(top, onerror=_refuse):
            seen = sorted(name for name in below if not name.startswith("."))
            paths = [Path(folder, name) for name in seen]
            self.links += [path for path in paths if path.is_symlink()]
            below[:] = []
            for path in paths:
                if not path.is_symlink() and (identity := _identity(path)) not in entered:
                    entered.add(identity)
                    below.append(path.name)
            within = Path(folder).relative_to(self.root)
            for name in sorted(files):
                if not name.startswith(".") and name.lower() not in LITTER:
                    yield (within / name).as_posix()

    def read(self, name: str) -> bytes:
        path = self.root / name
        # Reading a pipe would block, and a device may be endless.
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("it is not a regular file")
        return path.read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{PART}{uuid.uuid4().hex}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)  # else a power cut may keep the name without the content
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def remove_parts(self) -> None:
        """Remove the partial files of a killed run."""
        for folder, _, files in os.walk(self.root):
            for name in files:
                if name.startswith(PART):
                    with contextlib.suppress(OSError):
                        (Path(folder) / name).unlink(missing_ok=True)


class Remote:
    """A place of fsspec, such as s3://bucket/prefix. Object stores write atomically."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise BulkRefused(f"{url} needs fsspec: pip install -r ray_requirements.txt") from None
        try:
            fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # no such protocol, or its package is missing
            raise BulkRefused(f"{url} cannot be used: {error}") from None
        self._fs: Any = fs
        self.root: str = root.rstrip("/")

    def names(self) -> Iterator[str]:
        return (name for name, _ in self._sizes())

    def filled_names(self) -> Iterator[str]:
        return (name for name, size in self._sizes() if size != 0)  # some stores tell no size

    def below(self, folder: str) -> Remote:
        inner = copy.copy(self)
        inner.root = f"{self.root}/{folder}"
        return inner

    def _sizes(self) -> Iterator[tuple[str, int | None]]:
        try:
            found = self._fs.find(self.root, detail=True)
        except OSError as error:
            raise BulkRefused(f"{self.root} cannot be listed: {error}") from None
        for path in sorted(found):
            name = path.removeprefix(self.root).lstrip("/")
            parts = name.split("/")
            is_hidden = any(part.startswith(".") for part in parts)
            if name and not is_hidden and parts[-1].lower() not in LITTER:
                yield name, found[path].get("size")

    def read(self, name: str) -> bytes:
        return bytes(self._fs.cat_file(f"{self.root}/{name}"))

    def open(self, name: str) -> Any:
        """A file of which only parts are read; raises OSError."""
        return self._fs.open(f"{self.root}/{name}", "rb")

    def write(self, name: str, content: bytes) -> None:
        path = f"{self.root}/{name}"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(path, content)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self.root}/{name}")

    def is_file(self) -> bool:
        return bool(self._fs.isfile(self.root))

    def exists(self) -> bool:
        return bool(self._fs.exists(self.root))


def is_url(where: str) -> bool:
    """Whether fsspec handles this place."""
    return "://" in where and not where.startswith("file://")


def local_path(where: str, what: str) -> Path:
    """The resolved path of a local place, so that places can be compared.

    Raises BulkRefused if there can be no such path; `what` is the option's name.
    """
    name = where.removeprefix("file://")
    if not name:
        raise BulkRefused(f"{what} is empty: name a folder, or . for the current one")
    try:
        path = Path(name).expanduser().resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a loop, no such user
        text = error.strerror if isinstance(error, OSError) else error
        raise BulkRefused(f"{what}: {_short(where)} cannot be used: {text}") from error
    return path


def open_store(where: str, what: str) -> tuple[Store, str | None]:
    """The store of a folder and None, or the store of a file's folder and the file's name.

    Raises BulkRefused if there is neither; `what` is the option's name.
    """
    if is_url(where):
        remote = Remote(where)
        if remote.is_file():
            folder, _, name = where.rstrip("/").rpartition("/")
            return Remote(folder), name
        if not remote.exists():
            raise BulkRefused(f"{what}: there is no {where}")
        return remote, None
    path = local_path(where, what)
    if path.is_dir():
        return Folder(path), None
    if path.exists():
        return Folder(path.parent), path.name
    raise BulkRefused(f"{what}: there is no file or folder {where}")


def _short(where: str) -> str:
    return where if len(where) <= 80 else f"{where[:77]}…"


def _identity(folder: Path) -> tuple[int, int]:
    """What is the same for all names of a folder."""
    try:
        status = folder.stat()
    except OSError as error:
        raise BulkRefused(f"{folder} cannot be listed: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> None:
    raise BulkRefused(f"{error.filename} cannot be listed: {error.strerror}") from error
