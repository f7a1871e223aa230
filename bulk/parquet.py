"""Pictures in Parquet files: columns `image`, and `mask` or `boxes`.

An image or mask is binary, or a struct with `bytes` and optionally `path`, as data sets have it.
The name of a row's picture is its column `name`, else that path, else the file's name and the row's
number. Needs pyarrow, which is optional.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from bulk.errors import BulkRefused
from bulk.storage import Folder, Store
from core.pictures.errors import PictureError

SUFFIX: Final = ".parquet"

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


def rows(store: Store, name: str) -> Iterator[tuple[str, Row]]:
    """Names and locations of a file's pictures, without reading them; raises PictureError."""
    file = _open(store, name)
    columns = file.schema_arrow.names
    if "image" not in columns:
        raise PictureError("undecodable", f"it has no column image, only {', '.join(columns)}")
    named = _name_columns(file.schema_arrow)
    stem = PurePosixPath(name).with_suffix("").as_posix()
    number = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        listed = file.read_row_group(group, columns=named).to_pylist() if named else [{}] * count
        for index in range(count):
            yield _name_in(listed[index]) or f"{stem}-{number:06}", Row(name, group, index)
            number += 1


class Reader:
    """Reads rows, and caches the last row group, because tasks come in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._at: tuple[str, int] | None = None
        self._group: Any = None

    def __getstate__(self) -> Store:
        return self._store

    def __setstate__(self, store: Store) -> None:
        self.__init__(store)  # type: ignore[misc]

    def __call__(self, row: Row) -> dict[str, Any]:
        """The row's `image` and `mask` as bytes and its `boxes` as lists, if it has them."""
        with self._lock:
            if self._at != (row.file, row.group):
                self._group = None  # freed before the next one is read
                file = _open(self._store, row.file)
                columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
                self._group = file.read_row_group(row.group, columns=columns)
                self._at = row.file, row.group
            group = self._group
        values = {name: group.column(name)[row.index].as_py() for name in group.column_names}
        for name in ("image", "mask"):
            if isinstance(values.get(name), dict):
                values[name] = values[name].get("bytes")
        return values


def _open(store: Store, name: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BulkRefused(f"{name} needs pyarrow: pip install -r ray_requirements.txt") from None
    try:
        if isinstance(store, Folder):
            return pyarrow.parquet.ParquetFile(store.root / name, memory_map=True)
        return pyarrow.parquet.ParquetFile(io.BytesIO(store.read(name)))
    except (OSError, pyarrow.ArrowException) as error:
        raise PictureError("undecodable", f"it is not a Parquet file: {error}") from error


def _name_columns(schema: Any) -> list[str]:
    if "name" in schema.names:
        return ["name"]
    kind = schema.field("image").type
    has_path = "path" in [kind.field(i).name for i in range(kind.num_fields)]
    return ["image.path"] if has_path else []


def _name_in(row: dict[str, Any]) -> str | None:
    name = row.get("name") or (row.get("image") or {}).get("path")
    return PurePosixPath(name).as_posix() if name else None
