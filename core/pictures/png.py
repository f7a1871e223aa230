"""The chunks of a PNG: long texts and profiles, which Pillow refuses, and 16 bits per channel."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

#: Bytes of the largest colour profile; a longer one is not kept.
LONGEST_PROFILE: Final = 64 * 1024 * 1024

#: Chunks that say how the pixels are shown. A 16-bit PNG keeps them as they are.
_SHOWING: Final = (b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"pHYs", b"mDCV", b"cLLI")

_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")

#: The colour type by the number of channels.
_COLOUR_TYPES: Final = {1: 0, 2: 4, 3: 2, 4: 6}


def chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The name of each chunk, where it begins, and where the next one does."""
    place = len(SIGNATURE)
    while place + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        yield name, place, place + length + 12
        place += length + 12


def without_texts(content: bytes) -> tuple[bytes, bytes | None]:
    """A PNG without its text chunks and its colour profile, and that profile.

    Pillow refuses a file in which one of them is above 1 MiB. Texts are not kept in results.
    """
    left, profile, kept_from = [], None, 0
    for name, begin, end in chunks(content):
        if name in (*_TEXTS, b"iCCP"):
            if name == b"iCCP":
                profile = _profile(content[begin + 8 : end - 4])
            left.append(content[kept_from:begin])
            kept_from = end
    if not kept_from:
        return content, None
    return b"".join([*left, content[kept_from:]]), profile


def has_16_bits(content: bytes) -> bool:
    """Whether a PNG has 16 bits per channel."""
    return content[24:25] == b"\x10"


def decode_16(content: bytes) -> npt.NDArray[np.uint16]:
    """The pixels of a 16-bit PNG, H×W×C: grey, grey and alpha, RGB or RGBA. Raises ValueError."""
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ValueError("it cannot be decoded")
    has_alpha = array.ndim == 3 and array.shape[2] == 4
    if content[25] in (0, 4):  # OpenCV makes BGRA of grey with alpha
        grey = array if array.ndim == 2 else array[..., 0]
        return np.dstack([grey, array[..., 3]] if has_alpha else [grey])
    code = cv2.COLOR_BGRA2RGBA if has_alpha else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(array, code), np.uint16)


def encode_16(array: npt.NDArray[np.uint16], kept: bytes, exif: bytes) -> bytes:
    """A 16-bit PNG of H×W×C. `kept` are finished chunks, `exif` is without its prefix."""
    height, width, channels = array.shape
    lines = array.astype(">u2").reshape(height, -1).view(np.uint8)
    # The filter "up": each line is stored as its difference from the line above.
    lines[1:] -= lines[:-1].copy()
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), lines], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    parts = [SIGNATURE, _chunk(b"IHDR", head), kept]
    if exif:
        parts.append(_chunk(b"eXIf", exif))
    parts += [_chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def showing_chunks(content: bytes) -> bytes:
    """The chunks before the pixels that say how a PNG is shown."""
    found = []
    for name, begin, end in chunks(content):
        if name == b"IDAT":
            break
        if name in _SHOWING:
            found.append(content[begin:end])
    return b"".join(found)


def profile_chunk(profile: bytes) -> bytes:
    """A colour profile as a chunk."""
    return _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))


def _profile(chunk: bytes) -> bytes | None:
    """The profile of an iCCP chunk; None if it is damaged or too long."""
    _, _, packed = chunk.partition(b"\0")
    try:
        unpacking: Any = zlib.decompressobj()
        profile: bytes = unpacking.decompress(packed[1:], LONGEST_PROFILE)
    except zlib.error:
        return None
    return None if unpacking.unconsumed_tail or not profile else profile


def _chunk(name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
    return struct.pack(">I", len(data)) + name + data + check
