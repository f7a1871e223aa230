"""Decodes and encodes picture files, and keeps their metadata, alpha and encoding options."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin

from bulk.errors import PictureError
from core.pixels.arrays import Hole
from core.pixels.arrays import Picture as Array  # here, a Picture is what a file holds

#: Supported formats, by Pillow's names, with the suffixes of their files.
SUFFIXES: Final = {"JPEG": (".jpg", ".jpeg", ".jpe"), "PNG": (".png",), "WEBP": (".webp",)}
PICTURE_SUFFIXES: Final = tuple(suffix for group in SUFFIXES.values() for suffix in group)

#: Quality of a new JPEG or a lossy WebP. A JPEG that stays a JPEG keeps its own tables; a WebP does
#: not contain the quality it was made with.
QUALITY: Final = 95

#: The mode to which an image of each mode is converted before its channels are split.
_PLAIN: Final = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "CMYK"}

_ORIENTATION: Final = 0x0112

#: Prefix of EXIF data in a JPEG.
EXIF_MARK: Final = b"Exif\0\0"

# MAX_IMAGE_PIXELS is checked here instead, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture as it is stored: its EXIF orientation is not applied.

    `rgb` is H×W×3. `rest` is what RGB cannot hold: H×W alpha, H×W×4 for CMYK, or None.
    `orientation` is EXIF's, 1 to 8. `options` are Pillow's for saving it in its own `format`,
    `common` those for any format.
    """

    rgb: Array
    rest: Array | None
    mode: str
    format: str
    orientation: int
    options: dict[str, Any] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)

    @property
    def shown_size(self) -> tuple[int, int]:
        """(height, width) with the EXIF orientation applied."""
        height, width = self.rgb.shape[:2]
        return (width, height) if self.orientation >= 5 else (height, width)


def decode(
    content: bytes, limit: int, admit: Callable[[int], None] = lambda pixels: None
) -> Picture:
    """Decode a file. `admit` gets the number of pixels before memory is allocated for them.

    Raises PictureError if the file is not a JPEG, PNG or WebP, is damaged, or has more than `limit`
    pixels, more than one frame or more than 8 bits per channel.
    """
    image = open_checked(content, limit, tuple(SUFFIXES))
    form = "JPEG" if image.format == "MPO" else str(image.format)
    if form != "JPEG" and getattr(image, "n_frames", 1) > 1:
        raise PictureError("animated", "it is animated; only single pictures are supported")
    if form == "PNG" and content[24:25] == b"\x10":
        raise PictureError("not_8_bits", "it has 16 bits per channel, must have 8")
    admit(image.width * image.height)
    load(image)
    info = image.info
    common = {key: info[key] for key in ("icc_profile", "exif", "dpi") if info.get(key)}
    if "exif" in common:  # a JPEG needs the prefix, other formats do not
        common["exif"] = EXIF_MARK + common["exif"].removeprefix(EXIF_MARK)
    orientation = _orientation(image)
    options = _own_options(image, form, content)
    plain = _plain(image)
    if plain.mode != image.mode:
        options.pop("transparency", None)
    rgb, rest = _apart(plain)
    return Picture(rgb, rest, plain.mode, form, orientation, options, common)


def encode(picture: Picture, filled: Array, hole: Hole, form: str = "") -> bytes:
    """Encode a picture with the colours of `filled` (H×W×3 RGB), in `form` or in its own format.

    `hole`, bool H×W, is where `filled` differs. Raises PictureError if `form` cannot hold it.
    """
    form = form or picture.format
    if form == picture.format:
        options = {**picture.common, **picture.options}
    else:
        options = {**picture.common, **_new_options(form)}
    array = _together(picture, filled, hole)
    if form == "JPEG" and picture.mode in ("LA", "RGBA"):
        raise PictureError("alpha", "it has an alpha channel, which JPEG cannot hold")
    if form != "JPEG" and picture.mode == "CMYK":
        array, options = filled, {**options, "icc_profile": None}
    if form == "WEBP":
        options.pop("dpi", None)
    sink = io.BytesIO()
    try:
        _image(array, picture.mode).save(sink, form, **options)
    except (OSError, ValueError) as error:
        raise PictureError("unencodable", f"it cannot be saved as {form}: {error}") from error
    return sink.getvalue()


def open_checked(content: bytes, limit: int, formats: tuple[str, ...]) -> Image.Image:
    """Open a file and read only its header; raises PictureError."""
    try:
        image = Image.open(io.BytesIO(content), formats=formats)
    except Exception as error:  # Pillow's readers raise many types
        text = "it is not a picture, or its header is damaged"
        raise PictureError("undecodable", f"{text}: must be one of {', '.join(formats)}") from error
    if image.width * image.height > limit:
        raise PictureError(
            "too_large",
            f"{image.width}×{image.height} is above MAX_IMAGE_PIXELS={limit}",
        )
    return image


def load(image: Image.Image) -> None:
    """Decode an opened image; raises PictureError."""
    try:
        image.load()
    except Exception as error:
        raise PictureError("undecodable", f"it cannot be decoded: {error}") from error


def suffix_of(form: str) -> str:
    """The usual suffix of a format's files."""
    return SUFFIXES[form][0]


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # damaged EXIF data is ignored
        value = image.getexif().get(_ORIENTATION, 1)
        if value in range(1, 9):
            return int(value)
    return 1


def _own_options(image: Image.Image, form: str, content: bytes) -> dict[str, Any]:
    """Pillow's options to save a file like the one that was read."""
    if form == "JPEG":
        options: dict[str, Any] = {
            "qtables": image.quantization,  # type: ignore[attr-defined]
            "progressive": bool(image.info.get("progressive")),
        }
        sampling = JpegImagePlugin.get_sampling(image)
        return {**options, "subsampling": sampling} if sampling >= 0 else options
    if form == "PNG":
        transparency = image.info.get("transparency")
        return {} if transparency is None else {"transparency": transparency}
    if _is_lossless(content):
        return {"lossless": True, "exact": True, "quality": 80}
    return {**_new_options("WEBP"), "exact": True}


def _new_options(form: str) -> dict[str, Any]:
    return {
        "JPEG": {"quality": QUALITY, "subsampling": 0},
        "PNG": {},
        "WEBP": {"quality": QUALITY},
    }[form]


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


def _plain(image: Image.Image) -> Image.Image:
    """The image in one of the modes of _PLAIN, with the same colours."""
    if image.mode in ("P", "PA"):
        clear = image.mode == "PA" or "transparency" in image.info
        return image.convert("RGBA" if clear else "RGB")
    if image.mode not in _PLAIN:
        raise PictureError(
            "not_8_bits", f"it has pixels of mode {image.mode}, must have 8 bits per channel"
        )
    return image if _PLAIN[image.mode] == image.mode else image.convert(_PLAIN[image.mode])


def _apart(image: Image.Image) -> tuple[Array, Array | None]:
    array = np.asarray(image)
    if image.mode == "CMYK":
        return np.array(image.convert("RGB")), np.array(array)
    if image.mode in ("L", "LA"):
        grey = array if image.mode == "L" else array[..., 0]
        rgb = np.repeat(grey[..., None], 3, axis=2)
        return rgb, None if image.mode == "L" else np.array(array[..., 1])
    alpha = np.array(array[..., 3]) if image.mode == "RGBA" else None
    return np.array(array[..., :3], order="C"), alpha


def _image(array: Array, mode: str) -> Image.Image:
    """Four channels are RGBA unless they are CMYK."""
    if mode == "CMYK" and array.shape[2] == 4:
        height, width = array.shape[:2]
        return Image.frombytes("CMYK", (width, height), array.tobytes())
    return Image.fromarray(array)


def _together(picture: Picture, filled: Array, hole: Hole) -> Array:
    """The inverse of `_apart`, exact outside the hole."""
    if picture.mode == "RGB":
        return filled
    if picture.mode == "CMYK":
        assert picture.rest is not None
        inks = np.asarray(Image.fromarray(filled).convert("CMYK"))
        return np.where(hole[..., None], inks, picture.rest)
    colours = filled
    if picture.mode in ("L", "LA"):
        colours = np.asarray(cv2.cvtColor(filled, cv2.COLOR_RGB2GRAY), np.uint8)
    return colours if picture.rest is None else np.dstack([colours, picture.rest])
