"""Files of every kind that people bring, and what their results must be."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from core.pictures.codec import Picture, decode, encode
from core.pictures.errors import PictureError
from harness import ROOT
from tests.bulk.catalogue import content, mask_for, opened, photograph, saved

SIZE = (40, 56)
LIMIT = 1 << 20
HOLE = mask_for(*SIZE) > 0
#: Not compressible, so that no writer makes it short.
NOISE = np.random.default_rng(0).bytes(3 << 20)


def white(picture: Picture) -> list[np.ndarray]:
    """The layers with a white hole."""
    return [np.where(HOLE[..., None], np.uint8(255), layer) for layer in picture.layers(HOLE)]


def filled(file: bytes, form: str = "") -> bytes:
    picture = decode(file, LIMIT)
    return encode(picture, white(picture), HOLE, form)


def exif(**tags: Any) -> Image.Exif:
    made = Image.Exif()
    made[0x010F] = "maker"
    made[0x0112] = tags.get("orientation", 1)
    return made


def with_thumbnail(order: str) -> bytes:
    """EXIF data with a maker and a thumbnail in its second directory."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    first = struct.pack(f"{order}HHHI4sI", 1, 0x010F, 2, 4, b"shop", 26)
    thumbnail = b"\xff\xd8the old text\xff\xd9"
    second = struct.pack(f"{order}HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(thumbnail), 0)
    return b"Exif\0\0" + mark + struct.pack(f"{order}I", 8) + first + second + thumbnail


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_thumbnail_with_the_old_text_is_removed_and_the_other_tags_are_kept(
    order: str, form: str
) -> None:
    file = content(photograph(*SIZE), form, exif=with_thumbnail(order))
    assert b"the old text" in file
    after = filled(file)
    assert b"the old text" not in after
    tags = opened(after).getexif()
    assert tags[0x010F] == "shop"
    assert not tags.get_ifd(1)


def test_pillows_warnings_are_not_printed(tmp_path: Path) -> None:
    damaged = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 900) + b"x"
    path = tmp_path / "a.jpg"
    path.write_bytes(content(photograph(*SIZE), "JPEG", exif=damaged))
    program = (
        "import sys; from core.pictures.codec import decode; "
        "decode(open(sys.argv[1], 'rb').read(), 1 << 20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_dropped_since_it_could_hide_a_thumbnail() -> None:
    damaged = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 900) + b"the old text"
    after = filled(content(photograph(*SIZE), "JPEG", exif=damaged))
    assert b"the old text" not in after


def test_text_on_transparent_ground_leaves_no_silhouette() -> None:
    image = np.zeros((*SIZE, 4), np.uint8)
    image[HOLE] = (200, 30, 30, 255)  # the letters
    picture = decode(content(image), LIMIT)
    layers = picture.layers(HOLE)
    assert len(layers) == 1  # alpha is 0 all around: it needs no network
    after = np.array(opened(encode(picture, layers, HOLE)))
    assert not after[..., 3].any()


def test_alpha_that_varies_is_filled_like_a_picture() -> None:
    image = np.dstack([photograph(*SIZE), photograph(*SIZE, 1)[..., 0]])
    picture = decode(content(image), LIMIT)
    colours, alpha = picture.layers(HOLE)
    assert np.array_equal(alpha[~HOLE], np.repeat(image[~HOLE][:, 3:], 3, axis=1))
    after = np.array(opened(encode(picture, [colours, np.full_like(alpha, 77)], HOLE)))
    assert (after[HOLE][:, 3] == 77).all()
    assert np.array_equal(after[~HOLE], image[~HOLE])


def test_colours_under_alpha_0_are_no_context_and_are_kept() -> None:
    image = np.full((*SIZE, 4), (10, 200, 30, 255), np.uint8)
    image[: SIZE[0] // 8, :] = (255, 0, 255, 0)  # just above the hole
    picture = decode(content(image), LIMIT)
    colours = picture.layers(HOLE)[0]
    assert (colours == (10, 200, 30)).all()
    after = np.array(opened(encode(picture, white(picture), HOLE)))
    assert np.array_equal(after[~HOLE], image[~HOLE])


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_transparent_colour_is_an_alpha_channel_too(mode: str) -> None:
    ground = Image.new("RGB", (SIZE[1], SIZE[0]), (1, 2, 3))
    image = np.array(ground)
    image[HOLE] = 250
    before = Image.fromarray(image)
    before = before.quantize(4) if mode == "P" else before.convert(mode)
    key = before.getpixel((0, 0))
    picture = decode(saved(before, "PNG", transparency=key), LIMIT)
    after = opened(encode(picture, picture.layers(HOLE), HOLE)).convert("RGBA")
    assert not np.array(after)[..., 3].any()


def test_black_only_cmyk_is_filled_with_black_only() -> None:
    inks = np.zeros((*SIZE, 4), np.uint8)
    inks[..., 3] = photograph(*SIZE)[..., 0]
    image = Image.frombytes("CMYK", (SIZE[1], SIZE[0]), inks.tobytes())
    picture = decode(saved(image, "JPEG", quality=100, subsampling=0), LIMIT)
    layers = picture.layers(HOLE)
    grey = [np.full_like(layers[-1], 100)]  # the network's answer for the black ink
    after = np.array(opened(encode(picture, [*layers[:-1], *grey], HOLE)))
    assert after[..., :3].max() <= 2
    assert np.abs(after[HOLE][:, 3].astype(int) - 155).max() <= 6


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_cmyk_keeps_its_inks_where_it_is_told_to_stay(form: str) -> None:
    inks = np.array(Image.fromarray(photograph(*SIZE)).convert("CMYK"))
    inks[..., 3] = photograph(*SIZE, 2)[..., 0]
    image = Image.frombytes("CMYK", (SIZE[1], SIZE[0]), inks.tobytes())
    picture = decode(saved(image, form), LIMIT)
    assert len(picture.layers(HOLE)) == 2
    after = opened(encode(picture, picture.layers(HOLE), HOLE))
    assert after.mode == "CMYK"
    assert opened(encode(picture, picture.layers(HOLE), HOLE, "PNG")).mode == "RGB"


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
def test_a_png_with_a_long_text_is_done(kind: str) -> None:
    info = PngImagePlugin.PngInfo()
    text = "x" * (2 << 20)
    if kind == "iTXt":
        info.add_itxt("comment", text)
    else:
        info.add_text("comment", text, zip=kind == "zTXt")
    after = opened(filled(content(photograph(*SIZE), pnginfo=info)))
    assert np.array_equal(np.array(after)[~HOLE], photograph(*SIZE)[~HOLE])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_long_colour_profile_is_kept(form: str) -> None:
    file = content(photograph(*SIZE), form, icc_profile=NOISE)
    assert opened_long(filled(file)) == NOISE
    assert opened_long(filled(file, "PNG")) == NOISE


def opened_long(file: bytes) -> bytes:
    """The profile of a file, which may be longer than Pillow takes from a PNG."""
    return bytes(decode(file, LIMIT).common["icc_profile"])


def test_exif_of_several_segments_is_kept() -> None:
    note = NOISE[:200_000].replace(b"\0", b"x").hex()[:200_000]
    tags = Image.Exif()
    tags[0x010E] = note
    segments = b""
    data = tags.tobytes().removeprefix(b"Exif\0\0")
    for begin in range(0, len(data), 60_000):
        part = b"Exif\0\0" + data[begin : begin + 60_000]
        segments += b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part
    plain = content(photograph(*SIZE), "JPEG")
    after = opened(filled(plain[:2] + segments + plain[2:]))
    assert after.getexif()[0x010E] == note
    as_jpeg = filled(content(photograph(*SIZE), "PNG", exif=tags.tobytes()), "JPEG")
    assert opened(as_jpeg).getexif()[0x010E] == note


@pytest.mark.parametrize("cut", [1, 2, 40])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_done_with_a_remark(cut: int, progressive: bool) -> None:
    file = content(photograph(*SIZE), "JPEG", progressive=progressive)
    picture = decode(file[:-cut], LIMIT)
    assert [remark.reason for remark in picture.remarks] == ["truncated"]
    top = np.array(opened(encode(picture, white(picture), HOLE)))[: SIZE[0] // 2]
    wanted = np.array(opened(filled(file)))[: SIZE[0] // 2]
    assert np.abs(top.astype(int) - wanted).mean() < 3
    assert not decode(file, LIMIT).remarks


@pytest.mark.parametrize(("share", "fails"), [(0.99, False), (0.95, False), (0.6, True)])
def test_a_jpeg_of_which_much_is_missing_is_refused(share: float, fails: bool) -> None:
    file = content(photograph(600, 400), "JPEG")
    file = file[: int(share * len(file))]
    if fails:
        with pytest.raises(PictureError, match=r"\d+ of 600 rows: copy it again"):
            decode(file, LIMIT)
    else:
        (remark,) = decode(file, LIMIT).remarks
        assert 0 < int(remark.text.split()[-5]) <= 60


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["WEBP", "PNG", "AVIF", "TIFF", "BMP"])
def test_another_format_is_upright_and_has_no_orientation(orientation: int, form: str) -> None:
    file = content(photograph(*SIZE), "JPEG", exif=exif(orientation=orientation))
    picture = decode(file, LIMIT)
    none = np.zeros(SIZE, bool)
    after = opened(encode(picture, [], none, form))
    assert after.getexif().get(0x0112, 1) == 1
    shown = Image.fromarray(picture.channels)
    shown.getexif()[0x0112] = orientation
    wanted = np.array(ImageOps.exif_transpose(shown))
    assert np.abs(np.array(after).astype(int) - wanted).mean() < 4


@pytest.mark.parametrize("form", ["AVIF", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_avif_tiff_and_bmp_are_read_and_written(form: str, mode: str) -> None:
    image = Image.fromarray(photograph(*SIZE)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(photograph(*SIZE, 1)[..., 0]))
    if (form, mode) in (("BMP", "LA"), ("BMP", "RGBA")):
        bgra = cv2.cvtColor(np.array(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
        file = cv2.imencode(".bmp", bgra)[1].tobytes()
    else:
        file = saved(image, form)
    before, after = opened(file), opened(filled(file))
    assert after.format == form
    pair = [np.array(one.convert("RGBA")).astype(int) for one in (before, after)]
    difference = np.abs(pair[0] - pair[1])[~HOLE]
    assert difference.mean() < 3 if form == "AVIF" else not difference.any()
    assert (pair[1][HOLE] >= 250).mean() > 0.9


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_tiff_keeps_its_compression_and_turns_as_it_is_shown(compression: str) -> None:
    tags = exif(orientation=6)
    file = content(photograph(*SIZE), "TIFF", compression=compression, exif=tags)
    picture = decode(file, LIMIT)
    assert picture.size == picture.shown_size == (SIZE[1], SIZE[0])  # Pillow turns it
    after = opened(encode(picture, [], np.zeros(picture.size, bool)))
    assert after.info["compression"] == compression
    assert after.getexif()[0x010F] == "maker"
    assert np.array_equal(np.array(after), np.rot90(photograph(*SIZE), -1))


@pytest.mark.parametrize("depth", [8, 10, 12])
def test_an_avif_that_loses_bits_is_worth_a_remark(depth: int) -> None:
    pixels: Any = photograph(*SIZE).astype(np.uint16 if depth > 8 else np.uint8)
    file = cv2.imencode(".avif", pixels, [cv2.IMWRITE_AVIF_DEPTH, depth])[1].tobytes()
    reasons = [remark.reason for remark in decode(file, LIMIT).remarks]
    assert reasons == (["reduced"] if depth > 8 else [])


def tiff(dtype: Any) -> bytes:
    return cv2.imencode(".tiff", photograph(*SIZE).astype(dtype))[1].tobytes()


def animation(form: str) -> bytes:
    frames = [Image.fromarray(photograph(*SIZE, seed)) for seed in range(2)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("file", "reason", "said"),
    [
        (content(photograph(*SIZE), "GIF"), "gif", "save it as PNG"),
        (animation("GIF"), "gif", "save it as PNG"),
        (animation("PNG"), "animated", "only single pictures"),
        (animation("WEBP"), "animated", "only single pictures"),
        (animation("AVIF"), "animated", "only single pictures"),
        (animation("TIFF"), "several_pages", "save each"),
        (saved(Image.new("F", (9, 9)), "TIFF"), "not_8_bits", "floating-point.*save it as PNG"),
        (tiff(np.float32), "undecodable", "floating-point numbers: save it as PNG"),
        (tiff(np.float64), "undecodable", "floating-point numbers: save it as PNG"),
        (tiff(np.uint16), "not_8_bits", "16 bits per channel: save it as PNG"),
        (saved(Image.new("LAB", (9, 9)), "TIFF"), "colours", "colours are LAB.*save it as PNG"),
        (saved(Image.new("YCbCr", (9, 9)), "TIFF"), "colours", "are YCbCr.*save it as PNG"),
        (b"\0\0\0\x18ftypheic", "undecodable", "must be JPEG, PNG, WebP, AVIF, TIFF or BMP"),
    ],
)
def test_what_is_refused_says_what_to_do(file: bytes, reason: str, said: str) -> None:
    with pytest.raises(PictureError, match=said) as raised:
        decode(file, LIMIT)
    assert raised.value.reason == reason


def deep(channels: int) -> np.ndarray:
    """uint16 H×W×C, with values that 8 bits cannot hold."""
    return np.random.default_rng(1).integers(0, 65536, (*SIZE, channels)).astype(np.uint16)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def deep_png(array: np.ndarray, extra: bytes = b"") -> bytes:
    """A 16-bit PNG, written without the code under test."""
    height, width, channels = array.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = array.astype(">u2").reshape(height, -1).view(np.uint8)
    data = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), extra, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_16_bit_png_keeps_all_bits_outside_the_hole(channels: int) -> None:
    array = deep(channels)
    extra = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"eXIf", exif().tobytes()[6:])
    after = filled(deep_png(array, extra))
    result = np.asarray(cv2.imdecode(np.frombuffer(after, np.uint8), cv2.IMREAD_UNCHANGED))
    assert result.dtype == np.uint16
    grey_alpha = (0, 3)
    result = {
        1: lambda: result[..., None],
        2: lambda: result[..., grey_alpha],
        3: lambda: result[..., ::-1],
        4: lambda: result[..., (2, 1, 0, 3)],
    }[channels]()
    assert np.array_equal(result[~HOLE], array[~HOLE])
    assert (result[HOLE] == 65535).all()
    assert b"gAMA" in after
    assert opened(after).getexif()[0x010F] == "maker"


def test_a_16_bit_png_has_8_bits_in_a_format_that_has_no_more_and_this_is_noted() -> None:
    after = np.array(opened(filled(deep_png(deep(3)), "TIFF")))
    assert after.dtype == np.uint8
    picture = decode(deep_png(deep(3)), LIMIT)
    assert [remark.reason for remark in picture.lost_in("TIFF")] == ["reduced"]
    assert not picture.lost_in("PNG")
    assert not picture.lost_in("")
    assert not decode(content(photograph(*SIZE), "PNG"), LIMIT).lost_in("JPEG")
    assert np.abs(after - deep(3) / 257)[~HOLE].max() <= 0.5


def test_a_16_bit_png_keeps_a_long_profile() -> None:
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(NOISE))
    assert opened_long(filled(deep_png(deep(3), profile))) == NOISE
