"""Decodes and encodes picture files, and keeps their metadata, alpha and encoding options."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from core.pictures import exif, png
from core.pictures.errors import PictureError, Remark
from core.pictures.formats import (
    NAMES,
    SUFFIXES,
    has_deep_avif,
    new_options,
    own_options,
    why_not_tiff,
)
from core.pictures.layers import Channels, joined, layers_of, of_8_bits
from core.pictures.turning import turned_upright
from core.pixels.arrays import Hole
from core.pixels.arrays import Picture as Array  # here, a Picture is what a file holds
from core.telemetry.logs import number_of

#: The mode to which an image of each mode is converted before its channels are taken.
_PLAIN: Final = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "CMYK"}

#: The modes in which a transparent colour becomes an alpha channel.
_WITH_ALPHA: Final = {"1": "LA", "L": "LA", "RGB": "RGBA", "P": "RGBA"}

_ORIENTATION: Final = 0x0112

#: Tags that a TIFF keeps: description, make, model, software, date, artist, copyright.
_TIFF_TAGS: Final = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)

#: Marks the end of a JPEG.
_JPEG_END: Final = b"\xff\xd9"

#: What could be pixels of a JPEG, without a marker.
_OTHER_PIXELS: Final = bytes(range(1, 250, 7))

#: Rows that may be missing from any JPEG: two rows of its largest blocks.
_FEW_ROWS: Final = 32

#: More pixels than any picture may have.
MOST_PIXELS: Final = 2**30

# MAX_IMAGE_PIXELS is checked here instead, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

# Pillow's warnings name no file. What is wrong with a picture is an error or a remark here.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture as it is stored: its EXIF orientation is not applied.

    `channels` is H×W×C, of uint8 or uint16; `mode` says what they are: L, LA, RGB, RGBA or CMYK.
    `orientation` is EXIF's, 1 to 8. `options` are Pillow's for saving it in its own `format`,
    `common` those for any format. `showing` are the chunks of a 16-bit PNG that say how it is
    shown.
    """

    channels: Channels
    mode: str
    format: str
    orientation: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)
    showing: bytes = b""
    remarks: tuple[Remark, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as stored."""
        return self.channels.shape[0], self.channels.shape[1]

    @property
    def shown_size(self) -> tuple[int, int]:
        """(height, width) with the EXIF orientation applied."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)

    def lost_in(self, form: str) -> tuple[Remark, ...]:
        """What is lost if the picture is saved in another format; '' stands for its own."""
        if self.channels.dtype == np.uint16 and form not in ("", "PNG"):
            return (Remark("reduced", f"it has 16 bits per channel, its result as {form} has 8"),)
        return ()

    def layers(self, hole: Hole) -> list[Array]:
        """What the network has to fill, pictures of H×W×3; see core.pictures.layers."""
        return layers_of(self.channels, self.mode, hole)


def decode(
    content: bytes, limit: int, admit: Callable[[int], None] = lambda pixels: None
) -> Picture:
    """Decode a file. `admit` gets the number of pixels before memory is allocated for them.

    Raises PictureError if its format is not supported, or it is damaged, or has more than `limit`
    pixels, more than one frame, or more bits per channel than can be kept.
    """
    profile = None
    if content.startswith(png.SIGNATURE):
        content, profile = png.without_texts(content)
    image = open_checked(content, limit, (*SUFFIXES, "GIF"))
    form = "JPEG" if image.format == "MPO" else str(image.format)
    _require_single(image, form, content)
    admit(image.width * image.height)
    image, remarks = _loaded(image, content, form)
    common = _common_options(image, form)
    if profile:
        common["icc_profile"] = profile
    orientation = orientation_of(image)
    if form == "AVIF" and has_deep_avif(content):
        text = "it has more than 8 bits per channel, its result has 8"
        remarks = (*remarks, Remark("reduced", text))
    if form == "PNG" and png.has_16_bits(content):
        channels = decode_16(content)
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels.shape[2]]
        showing = png.showing_chunks(content)
        if profile:
            showing = png.profile_chunk(profile) + showing
        return Picture(channels, mode, form, orientation, {}, common, showing)
    options = own_options(image, form, content)
    plain = _plain(image)
    channels = np.array(plain)  # a copy, so that the image is freed
    if channels.ndim == 2:
        channels = channels[..., None]
    return Picture(channels, plain.mode, form, orientation, options, common, b"", remarks)


def encode(picture: Picture, filled: Sequence[Array], hole: Hole, form: str = "") -> bytes:
    """Encode a picture whose layers are `filled`, in `form` or in its own format.

    `hole`, bool H×W, is what the layers are used for. Raises PictureError if `form` cannot hold it.
    """
    form = form or picture.format
    require_form(picture, form)
    channels = joined(picture.channels, picture.mode, filled, hole)
    common = dict(picture.common)
    if form == picture.format:
        options = picture.options
    else:
        options = new_options(form)
        if form != "JPEG":
            # Many viewers ignore the orientation in other formats.
            channels = turned_upright(channels, picture.orientation)
            if "exif" in common:
                common["exif"] = exif.cleaned(common["exif"], upright=True)
    if channels.dtype == np.uint16:
        if form == "PNG":
            kept = common.get("exif", b"").removeprefix(exif.MARK)
            return png.encode_16(channels, picture.showing, kept)  # type: ignore[arg-type]
        channels = of_8_bits(channels)
    try:
        return _saved(channels, picture.mode, form, {**common, **options})
    except (OSError, ValueError) as error:
        raise PictureError("unencodable", f"it cannot be saved as {form}: {error}") from error


def require_form(picture: Picture, form: str) -> None:
    """Raise PictureError if a format cannot hold a picture."""
    if form == "JPEG" and picture.mode in ("LA", "RGBA"):
        raise PictureError(
            "alpha", "it has an alpha channel, which JPEG cannot hold: use PNG or WebP"
        )


def open_checked(
    content: bytes, limit: int, formats: tuple[str, ...], names: str = NAMES
) -> Image.Image:
    """Open a file and read only its header; raises PictureError. `names` are the formats' names."""
    try:
        image = Image.open(io.BytesIO(content), formats=formats)
    except Exception as error:  # Pillow's readers raise many types
        text = f"it is not a picture, or its header is damaged: must be {names}"
        raise PictureError("undecodable", why_not_tiff(content) or text) from error
    if image.width * image.height > limit:
        raise PictureError(
            "too_large", f"{image.width}×{image.height} is above MAX_IMAGE_PIXELS={limit}"
        )
    return image


def load(image: Image.Image) -> None:
    """Decode an opened image; raises PictureError."""
    try:
        image.load()
    except Exception as error:
        raise PictureError("undecodable", f"it cannot be decoded: {error}") from error


def frames_of(image: Image.Image) -> int:
    """The number of frames or pages of an opened file; raises PictureError."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception as error:  # a damaged file
        raise PictureError("undecodable", f"it cannot be decoded: {error}") from error


def _require_single(image: Image.Image, form: str, content: bytes) -> None:
    """Refuse what results cannot keep: animations, pages, and depths that Pillow would reduce."""
    if form == "GIF":
        raise PictureError("gif", "it is a GIF, which has only 256 colours: save it as PNG")
    if form != "JPEG" and frames_of(image) > 1:
        if form == "TIFF":
            raise PictureError("several_pages", "it has several pages: save each as its own file")
        raise PictureError("animated", "it is animated; only single pictures are supported")
    if form == "TIFF":
        depths = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        if max(depths if isinstance(depths, tuple) else (depths,)) > 8:
            raise PictureError("not_8_bits", why_not_tiff(content))


def _loaded(
    image: Image.Image, content: bytes, form: str
) -> tuple[Image.Image, tuple[Remark, ...]]:
    """The decoded image. Missing last bytes of a JPEG are worth a remark."""
    try:
        load(image)
        return image, ()
    except PictureError:
        if form != "JPEG" or content.rstrip(b"\0").endswith(_JPEG_END):
            raise
    whole = _jpeg(content + _JPEG_END)
    if whole.info.get("progressive"):
        text = "the end of the file is missing: it may be blurred"
        return whole, (Remark("truncated", text),)
    missing = _missing_rows(content, whole)
    if missing > max(_FEW_ROWS, whole.height // 10):
        raise PictureError(
            "undecodable",
            f"the end of the file is missing, and with it {missing} of {whole.height} rows: copy "
            "it again",
        )
    text = f"the end of the file is missing: its last {number_of(missing, 'row')} may be grey"
    return whole, (Remark("truncated", text),)


def _missing_rows(content: bytes, whole: Image.Image) -> int:
    """The rows of a JPEG that depend on what comes after the end of its file."""
    other = _jpeg(content + _OTHER_PIXELS * (1 + whole.height) + _JPEG_END)
    differing = (np.asarray(whole) != np.asarray(other)).reshape(whole.height, -1).any(axis=1)
    return whole.height - int(differing.argmax()) if differing.any() else 0


def _jpeg(content: bytes) -> Image.Image:
    image = open_checked(content, MOST_PIXELS, ("JPEG", "MPO"))
    load(image)
    return image


def _common_options(image: Image.Image, form: str) -> dict[str, Any]:
    info = image.info
    common = {key: info[key] for key in ("icc_profile", "dpi") if info.get(key)}
    if form == "TIFF":
        kept = Image.Exif()
        tags = image.getexif()
        kept.update({tag: tags[tag] for tag in _TIFF_TAGS if tag in tags})
        if kept:
            common["exif"] = exif.MARK + kept.tobytes().removeprefix(exif.MARK)
        if image.info.get("resolution") == (1, 1):  # Pillow's default where there is none
            common.pop("dpi", None)
    elif info.get("exif") and (cleaned := exif.cleaned(info["exif"])):
        common["exif"] = cleaned
    return common


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 if there is none."""
    with contextlib.suppress(Exception):  # damaged EXIF data is ignored
        value = image.getexif().get(_ORIENTATION, 1)
        if value in range(1, 9):
            return int(value)
    return 1


def decode_16(content: bytes) -> npt.NDArray[np.uint16]:
    """The pixels of a 16-bit PNG, H×W×C: L, LA, RGB or RGBA; raises PictureError."""
    try:
        return png.decode_16(content)
    except (ValueError, cv2.error) as error:
        raise PictureError("undecodable", f"it cannot be decoded: {error}") from error


def _plain(image: Image.Image) -> Image.Image:
    """The image in one of the modes of _PLAIN, with the same colours."""
    if "transparency" in image.info and image.mode in _WITH_ALPHA:
        return image.convert(_WITH_ALPHA[image.mode])
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" else "RGB")
    if image.mode in ("LAB", "YCbCr", "HSV"):
        text = f"its colours are {image.mode}, must be grey, RGB or CMYK: save it as PNG"
        raise PictureError("colours", text)
    if image.mode not in _PLAIN:
        raise PictureError(
            "not_8_bits", f"it has pixels of mode {image.mode}, must have 8 bits per channel"
        )
    return image if _PLAIN[image.mode] == image.mode else image.convert(_PLAIN[image.mode])


def _saved(channels: Channels, mode: str, form: str, options: dict[str, Any]) -> bytes:
    """A file of 8-bit channels."""
    if form == "BMP" and mode in ("LA", "RGBA"):
        return _bmp_with_alpha(channels)
    array = channels[..., 0] if mode == "L" else channels
    height, width = array.shape[:2]
    image = Image.frombytes(mode, (width, height), np.ascontiguousarray(array).tobytes())
    if mode == "CMYK" and form not in ("JPEG", "TIFF"):
        image = image.convert("RGB")
        options = {**options, "icc_profile": None}
    if form not in ("JPEG", "PNG", "TIFF"):
        options.pop("dpi", None)
    if form == "JPEG" and exif.is_long(options.get("exif", b"")):
        options["extra"] = exif.segments(options.pop("exif"))
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def _bmp_with_alpha(channels: Channels) -> bytes:
    """Pillow leaves alpha out of a BMP; OpenCV does not."""
    grey = channels.shape[2] == 2
    array = np.dstack([channels[..., :1]] * 3 + [channels[..., 1:]]) if grey else channels
    bgra = array[..., (2, 1, 0, 3)]
    done, file = cv2.imencode(".bmp", np.ascontiguousarray(bgra))
    if not done:
        raise ValueError("OpenCV cannot write it")
    return file.tobytes()
