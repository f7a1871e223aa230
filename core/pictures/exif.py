"""EXIF data as bytes: what must not stay in a result is taken out, the rest stays as it is.

Pillow would write it anew, which breaks the offsets of makers' own notes.
"""

from __future__ import annotations

import struct
from typing import Final

#: Prefix of EXIF data in a JPEG.
MARK: Final = b"Exif\0\0"

#: Bytes of EXIF data in one segment of a JPEG, its prefix not counted.
_MOST_IN_SEGMENT: Final = 65533 - len(MARK)

_ORIENTATION: Final = 0x0112

#: Tags of a thumbnail's place and length: of a JPEG, and of uncompressed strips.
_THUMBNAILS: Final = ((0x0201, 0x0202), (0x0111, 0x0117))

#: Types of numbers.
_SHORT, _LONG = 3, 4


class _Directory:
    """One directory of tags."""

    def __init__(self, data: bytearray, order: str, place: int) -> None:
        """Raises struct.error if it reaches out of the data."""
        self._data, self._order = data, order
        (count,) = struct.unpack_from(f"{order}H", data, place)
        self.next_at = place + 2 + 12 * count
        self.places = {}
        for entry in range(place + 2, self.next_at, 12):
            (tag,) = struct.unpack_from(f"{order}H", data, entry)
            self.places[tag] = entry
        (self.next,) = struct.unpack_from(f"{order}I", data, self.next_at)

    def number(self, tag: int) -> int | None:
        """The value of a tag that holds a single number."""
        if tag not in self.places:
            return None
        place = self.places[tag]
        _, kind, count = struct.unpack_from(f"{self._order}HHI", self._data, place)
        if count != 1 or kind not in (_SHORT, _LONG):
            return None
        form = "H" if kind == _SHORT else "I"
        (value,) = struct.unpack_from(f"{self._order}{form}", self._data, place + 8)
        return int(value)


def cleaned(exif: bytes, upright: bool = False) -> bytes:
    """EXIF data with its prefix and without a thumbnail, which would show what is erased.

    With `upright` its orientation becomes 1. Damaged data becomes b"": it could hide a thumbnail.
    """
    data = bytearray(exif.removeprefix(MARK))
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]), "")
    if not order:
        return b""
    try:
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        first = _Directory(data, order, place)
        if upright and _ORIENTATION in first.places:
            struct.pack_into(f"{order}HIHH", data, first.places[_ORIENTATION] + 2, 3, 1, 1, 0)
        following = first.next
        struct.pack_into(f"{order}I", data, first.next_at, 0)
        for _ in range(8):  # a chain of directories may be a loop
            if not following:
                break
            directory = _Directory(data, order, following)
            _clear_thumbnails(data, directory)
            following = directory.next
    except struct.error:
        return b""
    return MARK + bytes(data)


def segments(exif: bytes) -> bytes:
    """EXIF data that is too long for one segment of a JPEG, as several."""
    data = exif.removeprefix(MARK)
    parts = []
    for begin in range(0, len(data), _MOST_IN_SEGMENT):
        part = MARK + data[begin : begin + _MOST_IN_SEGMENT]
        parts.append(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part)
    return b"".join(parts)


def is_long(exif: bytes) -> bool:
    """Whether a JPEG needs several segments for it."""
    return len(exif) > len(MARK) + _MOST_IN_SEGMENT


def _clear_thumbnails(data: bytearray, directory: _Directory) -> None:
    """Overwrite the thumbnails of a directory, or cut them off at the end of the data."""
    for place_tag, length_tag in _THUMBNAILS:
        place, length = directory.number(place_tag), directory.number(length_tag)
        if place is None or length is None:
            continue
        end = min(place + length, len(data))
        if end == len(data) and place > directory.next_at:
            del data[place:]
        else:
            data[place:end] = bytes(max(0, end - place))
