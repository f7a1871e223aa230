"""The network: its files, its device, and a picture put through it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from core.commands.checks.finding import Finding, ok, problem, size, warning
from core.config import Settings
from core.errors import ModelUnavailable

if TYPE_CHECKING:
    from core.network import Inpainter, Torch

CHUNK: Final = 1 << 20

FILES: Final = (
    "set LAMA_CHECKPOINT_PATH and LAMA_CONFIG_PATH to the weights and the config that was "
    "published with them"
)


def check(settings: Settings) -> Iterator[Finding]:
    """Hash, load and run what the settings name, as a worker would."""
    found = False
    for name, path in (
        ("LAMA_CONFIG_PATH", settings.lama_config_path),
        ("LAMA_CHECKPOINT_PATH", settings.lama_checkpoint_path),
    ):
        if path.is_file():
            found = True
            yield ok("model", f"{path}: {size(path.stat().st_size)}, sha256 {_sha256(path)}")
        else:
            yield problem("model", f"there is no file {path} ({name})", FILES)
            return
    assert found
    try:
        from core.network import installed_torch, load_inpainter

        torch = installed_torch()
    except ImportError as error:
        yield problem(
            "model", f"{error}", "install base_requirements.txt for the Python that runs this"
        )
        return
    yield _device(settings, torch)
    try:
        inpainter = load_inpainter(settings)
    except ModelUnavailable as error:
        yield problem("model", str(error), FILES)
        return
    yield ok("model", f"{inpainter.layout()}; {inpainter.describe()}")
    yield _picture(inpainter)


def _device(settings: Settings, torch: Torch) -> Finding:
    said = f"torch {torch.version}"
    if gpu := torch.gpu:
        said = f"{said}; {gpu.name}, {size(gpu.free)} free of {size(gpu.size)}"
        if not settings.use_cuda:
            return warning("model", f"{said}, which USE_CUDA=0 leaves unused", "USE_CUDA=1")
        return ok("model", said)
    if settings.use_cuda:
        return warning(
            "model",
            f"{said}: USE_CUDA=1, but no CUDA device can be used; the CPU is",
            "install the driver (in Docker also --gpus all and the NVIDIA container toolkit), or "
            "USE_CUDA=0",
        )
    return ok("model", f"{said}; on the CPU, as USE_CUDA=0 says")


def _picture(inpainter: Inpainter) -> Finding:
    """Fills a small picture: its hole must change, and nothing else."""
    picture = np.random.default_rng(1).integers(96, 160, (128, 128, 3), np.uint8)
    mask = np.zeros((128, 128), np.uint8)
    mask[48:80, 48:80] = 255
    began = time.perf_counter()
    try:
        (filled,) = inpainter.infer([picture], [mask])
    except Exception as error:
        return problem(
            "model", f"a picture of 128×128 cannot be filled: {error}",
            "if it says half precision or memory: USE_FP16=0, or another device",
        )  # fmt: skip
    took_s = time.perf_counter() - began
    kept = np.array_equal(filled[mask == 0], picture[mask == 0])
    changed = not np.array_equal(filled[mask > 0], picture[mask > 0])
    if not (kept and changed):
        return problem(
            "model", "a picture came back unchanged in its hole, or changed outside it",
            "these weights are not LaMa's, or the device computes wrongly: try USE_CUDA=0",
        )  # fmt: skip
    return ok("model", f"a picture of 128×128 was filled in {took_s:.3f} s")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
