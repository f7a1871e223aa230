"""The formats of picture files, and Pillow's options to save each."""

from __future__ import annotations

import io
from typing import Any, Final

from PIL import Image, JpegImagePlugin, TiffImagePlugin

#: Supported formats, by Pillow's names, with the suffixes of their files.
SUFFIXES: Final = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
}
PICTURE_SUFFIXES: Final = tuple(suffix for group in SUFFIXES.values() for suffix in group)

#: The formats for people.
NAMES: Final = "JPEG, PNG, WebP, AVIF, TIFF or BMP"

#: Suffixes of pictures that are refused, and what to do about them.
REFUSED: Final = {
    ".gif": "GIF is not supported, because it has only 256 colours: save it as PNG",
    ".apng": "animations are not supported: save a single picture as PNG",
    ".heic": "HEIC is not supported: save it as JPEG or PNG",
    ".heif": "HEIF is not supported: save it as JPEG or PNG",
    ".jxl": "JPEG XL is not supported: save it as JPEG or PNG",
    ".jp2": "JPEG 2000 is not supported: save it as PNG",
    ".psd": "PSD is not supported: export it as PNG",
    ".svg": "SVG has no pixels: export it as PNG",
    ".pdf": "PDF is not supported: export its pages as PNG",
}

#: Quality of a new JPEG or AVIF or a lossy WebP. A JPEG that stays a JPEG keeps its own tables; the
#: others do not contain the quality that they were made with.
QUALITY: Final = 95

#: Tags of a TIFF, and the sample format of floating-point numbers.
_BITS, _SAMPLE_FORMAT, _FLOAT = 258, 339, 3

#: Compressions of TIFF that keep every pixel of 8 bits.
_LOSSLESS_TIFF: Final = ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd")


def suffix_of(form: str) -> str:
    """The usual suffix of a format's files."""
    return SUFFIXES[form][0]


def form_of(name: str) -> str | None:
    """The format of a file by its suffix."""
    for form, suffixes in SUFFIXES.items():
        if name.lower().endswith(suffixes):
            return form
    return None


def new_options(form: str) -> dict[str, Any]:
    """Options for a file in another format than the one that was read."""
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": QUALITY, "subsampling": 0},
        "WEBP": {"quality": QUALITY},
        "AVIF": {"quality": QUALITY, "subsampling": "4:4:4"},
        "TIFF": {"compression": "tiff_lzw"},
    }
    return options.get(form, {})


def own_options(image: Image.Image, form: str, content: bytes) -> dict[str, Any]:
    """Options for a file like the one that was read."""
    if form == "JPEG":
        options: dict[str, Any] = {
            "qtables": image.quantization,  # type: ignore[attr-defined]
            "progressive": bool(image.info.get("progressive")),
        }
        sampling = JpegImagePlugin.get_sampling(image)
        return {**options, "subsampling": sampling} if sampling >= 0 else options
    if form == "WEBP" and _is_lossless(content):
        return {"lossless": True, "exact": True, "quality": 80}
    if form == "WEBP":
        return {**new_options(form), "exact": True}
    if form == "TIFF":
        return _tiff_options(str(image.info.get("compression")))
    return new_options(form)


def has_deep_avif(content: bytes) -> bool:
    """Whether an AVIF has 10 or 12 bits per channel, of which Pillow reads 8."""
    place = content.find(b"av1C")
    return place >= 0 and len(content) > place + 6 and bool(content[place + 6] & 0x40)


def why_not_tiff(content: bytes) -> str:
    """Why a TIFF cannot be a picture here; '' if it is no TIFF, or its tags cannot be read."""
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return ""
    file = io.BytesIO(content)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        depths, kinds = (_numbers(tags.get(tag, 1)) for tag in (_BITS, _SAMPLE_FORMAT))
        if _FLOAT in kinds:
            return "it is a TIFF of floating-point numbers: save it as PNG"
        if max(depths) > 8:
            return f"it is a TIFF of {max(depths)} bits per channel: save it as PNG"
    except Exception:  # Pillow's readers raise many types
        return ""
    return f"it is a TIFF of {len(depths)} channels of a kind that is not supported: save it as PNG"


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def is_lossy(image: Image.Image, content: bytes) -> bool:
    """Whether the pixels of a file may differ from those that were saved."""
    if image.format == "TIFF":
        return image.info.get("compression") == "jpeg"
    is_webp = image.format == "WEBP"
    return image.format in ("JPEG", "MPO", "AVIF") or (is_webp and not _is_lossless(content))


def _tiff_options(compression: str) -> dict[str, Any]:
    if compression == "raw":
        return {}
    if compression == "jpeg":
        return {"compression": "jpeg", "quality": QUALITY}
    return {"compression": compression} if compression in _LOSSLESS_TIFF else new_options("TIFF")


def _is_lossless(content: bytes) -> bool:
    """Whether a WebP has its picture in a VP8L chunk."""
    place = 12
    while place + 8 <= len(content):
        name, size = content[place : place + 4], content[place + 4 : place + 8]
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        length = int.from_bytes(size, "little")
        place += 8 + length + length % 2
    return False
