"""A picture's file and its result's: all but the hole is the same."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, JpegImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from core.pictures.codec import decode, encode
from core.pictures.errors import PictureError
from tests.bulk.catalogue import content, mask_for, opened, photograph

SIZE = (40, 56)
LIMIT = 1 << 20
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def filled(file: bytes, form: str = "") -> bytes:
    """The result of a picture whose hole is filled with white."""
    picture = decode(file, LIMIT)
    hole = mask_for(*picture.size) > 0
    white = [np.where(hole[..., None], np.uint8(255), layer) for layer in picture.layers(hole)]
    return encode(picture, white, hole, form)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_a_png_keeps_every_byte_outside_the_hole(mode: str) -> None:
    image = Image.fromarray(photograph(*SIZE)).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(photograph(*SIZE, 1)[..., 0]))
    before = opened(content(np.array(image.convert("L") if mode in "1P" else image)))
    file = _saved(image)
    after = opened(filled(file))
    hole = mask_for(*SIZE) > 0
    as_before = np.array(opened(file).convert("RGBA"))
    as_after = np.array(after.convert("RGBA"))
    assert np.array_equal(as_after[~hole], as_before[~hole])
    assert (as_after[hole][:, :3] == 255).all()
    assert (as_after[hole][:, 3] == 255).all()
    assert after.mode == {"P": "RGB", "1": "L"}.get(mode, before.mode)


def _saved(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def test_a_lossless_webp_stays_one_with_its_alpha() -> None:
    image = np.dstack([photograph(*SIZE), photograph(*SIZE, 1)[..., 0]])
    image[:8, :8, 3] = 0  # the colours under what is clear are kept too
    after = filled(content(image, "WEBP", lossless=True, exact=True))
    assert b"VP8L" in after
    hole = mask_for(*SIZE) > 0
    assert np.array_equal(np.array(opened(after))[~hole], image[~hole])


def test_a_lossy_webp_stays_lossy() -> None:
    after = filled(content(photograph(*SIZE), "WEBP", quality=60))
    assert b"VP8 " in after[:64]


@pytest.mark.parametrize(("quality", "subsampling"), [(61, 2), (92, 1), (98, 0)])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_keeps_its_tables_and_sampling(
    quality: int, subsampling: int, progressive: bool
) -> None:
    options: dict[str, Any] = {
        "quality": quality,
        "subsampling": subsampling,
        "progressive": progressive,
    }
    before = opened(content(photograph(*SIZE), "JPEG", **options))
    after = opened(filled(content(photograph(*SIZE), "JPEG", **options)))
    assert isinstance(before, JpegImageFile)
    assert isinstance(after, JpegImageFile)
    assert after.quantization == before.quantization
    assert JpegImagePlugin.get_sampling(after) == subsampling
    assert bool(after.info.get("progressive")) == progressive


def test_a_cmyk_jpeg_stays_one() -> None:
    image = Image.fromarray(photograph(*SIZE)).convert("CMYK")
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=95)
    after = opened(filled(sink.getvalue()))
    assert after.mode == "CMYK"
    hole = mask_for(*SIZE) > 0
    assert np.abs(np.array(after).astype(int) - np.array(image))[~hole].mean() < 6


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("to", ["", "PNG", "JPEG", "WEBP"])
def test_profile_and_exif_are_kept_in_every_format(form: str, to: str) -> None:
    file = content(photograph(*SIZE), form, icc_profile=PROFILE, exif=exif(6))
    after = opened(filled(file, to))
    assert after.format == (to or form)
    assert after.info["icc_profile"] == PROFILE
    is_upright = to not in ("", "JPEG", form)
    assert after.getexif()[0x0112] == (1 if is_upright else 6)
    assert after.size == (SIZE if is_upright else (SIZE[1], SIZE[0]))


def test_a_jpeg_of_a_picture_with_alpha_is_refused() -> None:
    with pytest.raises(PictureError, match="alpha") as raised:
        filled(content(np.dstack([photograph(*SIZE)] * 2)[..., :4]), "JPEG")
    assert raised.value.reason == "alpha"


def animated() -> bytes:
    sink = io.BytesIO()
    frames = [Image.fromarray(photograph(*SIZE, seed)) for seed in range(2)]
    frames[0].save(sink, "PNG", save_all=True, append_images=frames[1:])
    return sink.getvalue()


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "undecodable"),
        (b"no picture", "undecodable"),
        (content(photograph(*SIZE))[:500], "undecodable"),
        (content(photograph(*SIZE), "JPEG")[:300], "undecodable"),
        (content(photograph(*SIZE), "GIF"), "gif"),
        (content(np.zeros((1025, 1024), np.uint8)), "too_large"),
        (animated(), "animated"),
    ],
)
def test_what_cannot_be_done_says_why_before_memory_is_taken(file: bytes, reason: str) -> None:
    admitted: list[int] = []
    with pytest.raises(PictureError) as raised:
        decode(file, LIMIT, admitted.append)
    assert raised.value.reason == reason
    assert reason != "too_large" or not admitted
