"""The files that LaMa's weights are published as. docs/weights.md has the same table, for people.

None of them was downloaded for this project. The digests are those that the projects named in the
docs compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Published:
    """One published file: its name, what it is, its size in bytes and its SHA-256 in hex."""

    name: str
    what: str
    sha256: str | None = None  # None: not known
    size: int | None = None


PUBLISHED: Final = (
    Published(
        "big-lama.zip",
        "the archive of big-lama: unpack it",
        "f1b358ca24093b93a106183b98a3dea6e8ed09f3b43ea7251eb2c81e7b4575f6",
        381_428_720,
    ),
    Published(
        "big-lama/models/best.ckpt",
        "big-lama of the LaMa project",
        "fccb7adffd53ec0974ee5503c3731c2c2f1e7e07856fd9228cdcc0b46fd5d423",
        410_046_389,
    ),
    Published(
        "lama-places/lama-fourier/models/best.ckpt",
        "lama-fourier of the LaMa project, trained on Places",
        "b2456284b604786a88a38549432ddf2e73a5911f9868ea692b5122e89a5f1f54",
        313_967_681,
    ),
    Published(
        "lama-celeba-hq/lama-fourier/models/best.ckpt",
        "lama-fourier of the LaMa project, trained on faces",
    ),
    Published(
        "lama-places/big-lama-regular/models/best.ckpt",
        "big-lama-regular of the LaMa project, without Fourier units",
    ),
    Published(
        "big-lama.pt",
        "big-lama as TorchScript, of IOPaint",
        "344c77bbcb158f17dd143070d1e789f38a66c04202311ae3a258ef66667a9ea9",
        205_669_692,
    ),
    Published(
        "big-lama.pt",
        "big-lama as TorchScript, of simple-lama-inpainting",
        "7ba7aa7ac37a4d41fdbbeba3a2af7ead18058552997e3a3cd1a3b2210c9e6b4c",
        205_803_670,
    ),
    Published(
        "lama_large_512px.ckpt",
        "big-lama fine-tuned on comics",
        "11d30fbb3000fb2eceae318b75d9ced9229d99ae990a7f8b3ac35c8d31f2c935",
    ),
    Published(
        "anime-manga-big-lama.pt",
        "big-lama fine-tuned on comics, as TorchScript",
        "479d3afdcb7ed2fd944ed4ebcc39ca45b33491f0f2e43eb1000bd623cfb41823",
        205_717_870,
    ),
    Published(
        "inpainting_lama_mpe.ckpt",
        "a structure-guided network for comics",
        "d625aa1b3e0d0408acfd6928aa84f005867aa8dbb9162480346a4e20660786cc",
    ),
)

#: The weights in lama-fourier/.
INCLUDED_SHA256: Final = "5d59b81a36588cb89caf0a5fd7845597075dfe25b944875bfbe6022c028a086d"


def provenance(sha256: str) -> str:
    """What is known of a file with this SHA-256, for a message."""
    if sha256 == INCLUDED_SHA256:
        return "the weights that are included"
    for file in PUBLISHED:
        if file.sha256 == sha256:
            return f"published as {file.name}: {file.what}"
    return "none of the published files in docs/weights.md, so its origin is not known"
