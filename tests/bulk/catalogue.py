"""Folders of small pictures with masks, a tiny network, and what must come of them."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bulk.report import FAILURES, Counts
from bulk.run import Request, run
from core.config import Settings
from harness import ROOT
from lama.inference import batch_inference, load_lama_model
from lama.regions import inpaint
from tests.lama.tiny import GOLDEN

NETWORK = GOLDEN / "blocks2-ngf16"
FILES = {
    "LAMA_CONFIG_PATH": str(NETWORK / "config.yaml"),
    "LAMA_CHECKPOINT_PATH": str(NETWORK / "models/best.ckpt"),
    "USE_CUDA": "0",
}


def settings(**changes: Any) -> Settings:
    known = {name.lower(): value for name, value in FILES.items()}
    return Settings(_env_file=None, **{**known, **changes})


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 H×W×3, smooth but nowhere one plane of colour."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3))
    return np.array(Image.fromarray(small.astype(np.uint8)).resize((width, height)))


def mask_for(height: int, width: int) -> np.ndarray:
    """uint8 H×W with one hole, left of the middle: turned or mirrored it is another."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 8 : height // 4, width // 8 : width // 2] = 255
    return mask


def content(array: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    return saved(Image.fromarray(array), form, **options)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def opened(source: bytes | Path) -> Image.Image:
    image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    image.load()
    return image


def expected(image: np.ndarray, mask: np.ndarray, region: Any = "mask") -> np.ndarray:
    """What batch_inference makes of the windows of one picture."""
    model, config = load_lama_model(NETWORK / "config.yaml", NETWORK / "models/best.ckpt", "cpu")

    def fill(images: Any, masks: Any) -> list[np.ndarray]:
        return batch_inference(images, masks, model, config, "cpu", use_fp16=True)

    return inpaint(fill, [image], [mask], region)[0]


def assert_same(after: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> None:
    """Byte for byte outside the hole, and in it but for one level of rounding.

    In bfloat16 one loaded network rounds otherwise than the next.
    """
    assert after.shape == wanted.shape
    assert np.array_equal(after[mask == 0], wanted[mask == 0])
    assert np.abs(after.astype(int) - wanted).max() <= 1


class Catalogue:
    """`pages/` and `masks/` in a folder, and runs that write to `clean/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pages, self.masks, self.clean = (root / name for name in ("pages", "masks", "clean"))
        self.pages.mkdir()
        self.masks.mkdir()

    def add(self, name: str, size: tuple[int, int] = (96, 120), seed: int = 0) -> None:
        """A PNG, WebP or JPEG, as the suffix says, and its mask."""
        form = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG"}[Path(name).suffix]
        options = {"lossless": True} if form == "WEBP" else {}
        self.put(name, content(photograph(*size, seed), form, **options), mask_for(*size))

    def put(self, name: str, file: bytes, mask: np.ndarray | None = None) -> None:
        path = self.pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file)
        if mask is not None:
            path = (self.masks / name).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(mask))

    def run(self, changes: dict[str, Any] | None = None, **request: Any) -> Counts:
        places = {"source": str(self.pages), "output": str(self.clean), "masks": str(self.masks)}
        return run(Request(**{**places, **request}), settings(**(changes or {})))

    def command(self, *arguments: str) -> list[str]:
        places = [str(self.pages), str(self.clean), "--masks", str(self.masks)]
        return [sys.executable, str(ROOT / "worker.py"), "bulk", *places, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **FILES, "RAY_USAGE_STATS_ENABLED": "0"}

    @property
    def failures(self) -> dict[str, str]:
        """Reasons by the names of pictures."""
        lines = (self.clean / FAILURES).read_text().splitlines()
        return {entry["image"]: entry["reason"] for entry in map(json.loads, lines)}

    @property
    def results(self) -> set[str]:
        """The names of all files in `clean/`, hidden ones too, but failures.jsonl."""
        found = {
            path.relative_to(self.clean).as_posix()
            for path in self.clean.rglob("*")
            if path.is_file()
        }
        return found - {FAILURES}

    def check(self, name: str) -> None:
        """A lossless result is what batch_inference makes of the picture."""
        mask = np.array(opened((self.masks / name).with_suffix(".png")))
        wanted = expected(np.array(opened(self.pages / name).convert("RGB")), mask)
        assert_same(np.array(opened(self.clean / name).convert("RGB")), wanted, mask)
