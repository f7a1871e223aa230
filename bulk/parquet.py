"""Pictures in Parquet files: columns `image`, and `mask` or `boxes`.

An image or mask is binary, or a struct with `bytes` and optionally `path`, as data sets have it.
The name of a row's picture is its column `name`, else that path, else the file's name and the row's
number. A name may be a number or bytes. Needs pyarrow, which is optional.
"""

from __future__ import annotations

import io
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from bulk.errors import BulkRefused
from bulk.storage import Folder, Remote, Store
from core.pictures.errors import PictureError

SUFFIX: Final = ".parquet"

#: Rows that are read together. Twice as many are in memory.
AT_ONCE: Final = 4

#: Bytes that are read together from a file that is not on this machine.
_BUFFER: Final = 1 << 20

_COLUMNS: Final = ("image", "mask", "boxes")


@dataclass(frozen=True, slots=True)
class Row:
    """The location of a picture: file, row group, and index in the group."""

    file: str
    group: int
    index: int


def is_parquet(name: str) -> bool:
    """Whether a file is a Parquet file, by its name."""
    return name.lower().endswith(SUFFIX)


def rows(store: Store, name: str) -> Iterator[tuple[str, Row | PictureError]]:
    """Names and locations of a file's pictures, without reading them; raises PictureError.

    A row whose name cannot be used has its number for a name, and an error for a location.
    """
    file = _open(store, name)
    columns = file.schema_arrow.names
    if "image" not in columns:
        raise PictureError("undecodable", f"it has no column image, only {', '.join(columns)}")
    named = _name_columns(file.schema_arrow)
    stem = PurePosixPath(name).with_suffix("").as_posix()
    number = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        for index, own in enumerate(_names(file, group, named, count)):
            numbered = f"{stem}-{number:06}"
            number += 1
            if isinstance(own, PictureError):
                yield numbered, own
            else:
                yield own or numbered, Row(name, group, index)


class Reader:
    """Reads rows. Tasks come nearly in order, so a row group is read once, from front to back.

    Only the current and the previous few rows are in memory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._group: _Group | None = None

    def __getstate__(self) -> Store:
        return self._store

    def __setstate__(self, store: Store) -> None:
        self.__init__(store)  # type: ignore[misc]

    def __call__(self, row: Row) -> dict[str, Any]:
        """The row's `image` and `mask` as bytes and its `boxes` as lists, if it has them.

        Raises PictureError.
        """
        with self._lock:
            group = self._group
            if group is None or group.at != (row.file, row.group) or row.index < group.first:
                self._group = None  # freed before the next one is read
                group = self._group = _Group(self._store, row)
            values = group.row(row.index)
        for name in ("image", "mask"):
            if isinstance(values.get(name), dict):
                values[name] = values[name].get("bytes")
        return values


class _Group:
    """A row group, read from front to back, AT_ONCE rows at a time."""

    def __init__(self, store: Store, row: Row) -> None:
        self.at = row.file, row.group
        file = _open(store, row.file)
        columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
        self._batches = file.iter_batches(AT_ONCE, row_groups=[row.group], columns=columns)
        self._kept: deque[tuple[int, Any]] = deque(maxlen=2)
        self._next = 0
        self._damage: PictureError | None = None

    @property
    def first(self) -> int:
        """The first row that is still in memory."""
        return self._kept[0][0] if self._kept else 0

    def row(self, index: int) -> dict[str, Any]:
        while index >= self._next:
            self._read_on()
        for first, batch in self._kept:
            if first <= index < first + batch.num_rows:
                return {
                    name: batch.column(name)[index - first].as_py() for name in batch.schema.names
                }
        raise AssertionError("the row is in memory")

    def _read_on(self) -> None:
        if self._damage is None:
            try:
                batch = next(self._batches)
                self._kept.append((self._next, batch))
                self._next += batch.num_rows
                return
            except StopIteration:
                text = "its row group has fewer rows than the file says"
                self._damage = PictureError("undecodable", text)
            except Exception as error:  # pyarrow raises OSError, its own and others
                self._damage = PictureError("undecodable", f"its row group is damaged: {error}")
        raise self._damage


def _open(store: Store, name: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BulkRefused(f"{name} needs pyarrow: pip install -r ray_requirements.txt") from None
    try:
        if isinstance(store, Folder):
            return pyarrow.parquet.ParquetFile(store.root / name, memory_map=True)
        if isinstance(store, Remote):
            return pyarrow.parquet.ParquetFile(store.open(name), buffer_size=_BUFFER)
        return pyarrow.parquet.ParquetFile(io.BytesIO(store.read(name)))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise PictureError("undecodable", f"it is not a Parquet file: {error}") from error


def _names(
    file: Any, group: int, columns: list[str], count: int
) -> Iterator[str | PictureError | None]:
    """The name of each row of a group, None if it has none."""
    try:
        listed = file.read_row_group(group, columns=columns).to_pylist() if columns else []
    except Exception as error:  # pyarrow raises OSError, its own and others
        damaged = PictureError("undecodable", f"its row group is damaged: {error}")
        yield from [damaged] * count
        return
    for row in listed or [{}] * count:
        try:
            yield _name_in(row)
        except PictureError as error:
            yield error


def _name_columns(schema: Any) -> list[str]:
    if "name" in schema.names:
        return ["name"]
    kind = schema.field("image").type
    has_path = "path" in [kind.field(i).name for i in range(kind.num_fields)]
    return ["image.path"] if has_path else []


def _name_in(row: dict[str, Any]) -> str | None:
    """A row's name: text, or a whole number or bytes as text; None if it has none."""
    name = row.get("name")
    if name is None or name == "":
        name = (row.get("image") or {}).get("path")
    if name is None or name in ("", b""):
        return None
    if isinstance(name, bytes):
        try:
            name = name.decode()
        except UnicodeDecodeError:
            raise PictureError("bad_name", f"its name {name[:40]!r} is not UTF-8") from None
    if isinstance(name, float) and name.is_integer():  # pandas makes these of whole numbers
        name = int(name)
    if isinstance(name, (int, uuid.UUID)) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str):
        raise PictureError("bad_name", f"its name is {ascii(name)[:40]}, must be text or a number")
    return PurePosixPath(name).as_posix()
