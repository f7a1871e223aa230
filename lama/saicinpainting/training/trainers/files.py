"""Reads the files that torch writes: an archive with a pickle, and the format before torch 1.6."""

from __future__ import annotations

import io
import mmap
import re
import zipfile
from pathlib import Path
from typing import IO, Any, cast

from .errors import CheckpointError, UnsafeCheckpointError
from .pickles import PickleReader
from .storages import Numbers, Place, dtype_of

#: Names of files with weights, for which an archive of files is searched.
_WEIGHTS = re.compile(r".*\.(?:ckpt|pt|pth|safetensors|bin)", re.IGNORECASE)

#: What a file of torch before 1.6 begins with.
_MAGIC = 0x1950A86A20F9469CFC6C


def read_archive(path: Path) -> tuple[Any, Numbers]:
    """What torch.save and torch.jit.save write: a zip of data.pkl and one entry per storage."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename for entry in entries}
        root = entries[0].filename.partition("/")[0] if entries else ""
        if f"{root}/data.pkl" not in names:
            raise CheckpointError(_archive_of_files(names))
        if f"{root}/constants.pkl" in names:
            # The code of TorchScript, which torch.jit.save compresses, is not looked at.
            pattern = re.compile(re.escape(root) + "/(data.pkl|data/[0-9]+|version|byteorder)")
            entries = [entry for entry in entries if pattern.fullmatch(entry.filename)]
        _check_entries(entries, path.stat().st_size)
        # Writable, so that torch takes it; changes would stay in memory.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    places = {
        entry.filename.removeprefix(f"{root}/"): _place(mapped, entry)
        for entry in entries
        if entry.filename.startswith(f"{root}/")
    }
    if "byteorder" in places and places["byteorder"].checked(mapped).tobytes() != b"little":
        raise CheckpointError(_BIG_ENDIAN)
    content = PickleReader(io.BytesIO(places["data.pkl"].checked(mapped))).read()
    data = {
        name.removeprefix("data/"): place
        for name, place in places.items()
        if name.startswith("data/")
    }
    return content, Numbers(mapped, data)


def read_legacy(path: Path) -> tuple[Any, Numbers]:
    """A file of torch before 1.6: magic number, version, system, object, storage keys, data."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    # Unlike a file, it gives no more bytes than it has, however many are asked for.
    reader = PickleReader(cast(IO[bytes], mapped))
    if reader.read() != _MAGIC:
        raise CheckpointError(
            "a pickle that torch.save has not written; save the weights with torch.save"
        )
    reader.read()
    system = reader.read()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError(_BIG_ENDIAN)
    content = reader.read()
    places = {}
    keys = reader.read()
    start = mapped.tell()
    for key in keys:
        # The number of elements, then the elements.
        count = int.from_bytes(mapped[start : start + 8], "little")
        size = count * dtype_of(reader.storages[str(key)]).itemsize
        places[str(key)] = Place(start + 8, size)
        start += 8 + size
    if start > len(mapped):
        raise ValueError(f"{start - len(mapped)} bytes are missing at its end")
    return content, Numbers(mapped, places)


_BIG_ENDIAN = "was saved by a big-endian machine; save it again on another"


def _archive_of_files(names: set[str]) -> str:
    weights = sorted(
        name for name in names if _WEIGHTS.fullmatch(name) and not name.startswith("__MACOSX")
    )
    if weights:
        return f"a zip archive of files: unzip it, and name {weights[0][:80]} out of it"
    return "a zip archive without data.pkl: not a checkpoint"


def _check_entries(entries: list[zipfile.ZipInfo], file_size: int) -> None:
    """Refuses a zip that unpacks to more than the file holds, or that can be read in two ways."""
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UnsafeCheckpointError(
                f"its entry {entry.filename} is compressed; torch writes none that way"
            )
    total = sum(entry.file_size for entry in entries)
    if total > file_size:
        raise UnsafeCheckpointError(f"its entries claim {total} bytes, the file has {file_size}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise UnsafeCheckpointError("two of its entries have the same name")


def _place(mapped: mmap.mmap, entry: zipfile.ZipInfo) -> Place:
    """Where an entry's bytes are: behind a header of its own, which names its lengths."""
    header = mapped[entry.header_offset : entry.header_offset + 30]
    if header[:4] != b"PK\x03\x04":
        raise ValueError(f"entry {entry.filename[:80]} has no header")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return Place(entry.header_offset + 30 + name + extra, entry.file_size, entry.CRC)
