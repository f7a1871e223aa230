"""The network: its files, its device, and a test picture."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from core.commands.checks.finding import Finding, Level, ok, problem, size, warning
from core.commands.checks.half_precision import check_half_precision
from core.commands.checks.published import provenance
from core.config import REQUIRE, Settings
from core.config.shown import shown
from core.config.values import UseCuda
from core.errors import ModelUnavailable, NoGpu
from lama.saicinpainting.paths import not_a_file

if TYPE_CHECKING:
    from core.network import Inpainter, Torch

CHUNK: Final = 1 << 20

FILES: Final = (
    "set LAMA_CHECKPOINT_PATH to the weights; LAMA_CONFIG_PATH may be unset, or is the config "
    "that was published with them"
)


def check(settings: Settings) -> Iterator[Finding]:
    """Hash, load and run the configured network, as a worker does."""
    if settings.lama_config_path is not None:
        yield _config(settings.lama_config_path)
    if what := not_a_file(settings.lama_checkpoint_path):
        path = settings.lama_checkpoint_path
        yield problem("model", f"{path} (LAMA_CHECKPOINT_PATH): {what}", _remedy(what, FILES))
        return
    yield _file(settings.lama_checkpoint_path, is_checkpoint=True)
    try:
        from core.network import installed_torch, load_inpainter

        torch = installed_torch()
    except ImportError as error:
        yield problem(
            "model", f"{error}", "install base_requirements.txt for the Python that runs this"
        )
        return
    is_set = "use_cuda" in settings.model_fields_set
    yield (device := _device(torch, settings.use_cuda, is_set=is_set))
    if settings.use_cuda == REQUIRE and device.level is Level.PROBLEM:
        return  # a worker does not start either
    try:
        inpainter = load_inpainter(settings)
    except ModelUnavailable as error:
        yield problem("model", str(error), FILES)
        return
    yield ok("model", f"{inpainter.layout()}; {inpainter.describe()}")
    yield _picture(inpainter)
    yield check_half_precision(inpainter)


def _config(path: Path) -> Finding:
    """The config's file, which may be missing: the weights tell the layout too."""
    what = not_a_file(path)
    if what is None:
        return _file(path)
    remedy = "unset LAMA_CONFIG_PATH, or set it to the config that was published with the weights"
    return warning(
        "model",
        f"{path} (LAMA_CONFIG_PATH): {what}; the layout is read off the weights",
        _remedy(what, remedy),
    )


def _remedy(what: str, remedy: str) -> str:
    """What to do about a path; `what` is what it leads to."""
    if "folder" in what:
        return f"{remedy}. Docker makes a folder where the file to mount is missing"
    return remedy


def _file(path: Path, is_checkpoint: bool = False) -> Finding:
    """The size and the digest; of a checkpoint also whether it is a published one's."""
    try:
        digest = _sha256(path)
    except OSError as error:
        return problem(
            "model",
            f"{path} cannot be read: {error.strerror}",
            "let the worker's user read it, or copy it to another disk",
        )
    origin = f" ({provenance(digest)})" if is_checkpoint else ""
    return ok("model", f"{path}: {size(path.stat().st_size)}, sha256 {digest}{origin}")


def _device(torch: Torch, use_cuda: UseCuda, *, is_set: bool) -> Finding:
    text = f"torch {torch.version}"
    if gpu := torch.gpu:
        text = f"{text}; {gpu.name}, {size(gpu.free)} free of {size(gpu.size)}"
        if not use_cuda:
            return warning("model", f"{text}, which USE_CUDA=0 leaves unused", "USE_CUDA=1")
        return ok("model", text)
    if use_cuda:
        # Somebody who has set it counts on a GPU. It is also the default, on hosts without one too.
        finding = problem if is_set else warning
        value = shown("use_cuda", use_cuda)
        outcome = "the worker does not start" if value == REQUIRE else "the CPU is"
        return finding(
            "model",
            f"{text}: USE_CUDA={value}, but no CUDA device can be used; {outcome}",
            NoGpu.FIX,
        )
    return ok("model", f"{text}; on the CPU, as USE_CUDA=0 says")


def _picture(inpainter: Inpainter) -> Finding:
    """Fill a small picture: its hole must change, and nothing outside it."""
    picture = np.random.default_rng(1).integers(96, 160, (128, 128, 3), np.uint8)
    mask = np.zeros((128, 128), np.uint8)
    mask[48:80, 48:80] = 255
    began = time.perf_counter()
    try:
        (filled,) = inpainter.infer([picture], [mask])
    except Exception as error:
        return problem(
            "model",
            f"a picture of 128×128 cannot be filled: {error}",
            "if it says half precision or memory: USE_FP16=0, or another device",
        )
    took_s = time.perf_counter() - began
    is_kept = np.array_equal(filled[mask == 0], picture[mask == 0])
    is_filled = not np.array_equal(filled[mask > 0], picture[mask > 0])
    if not (is_kept and is_filled):
        return problem(
            "model",
            "a picture came back unchanged in its hole, or changed outside it",
            "these weights are not LaMa's, or the device computes wrongly: try USE_CUDA=0",
        )
    return ok("model", f"a picture of 128×128 was filled in {took_s:.3f} s")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
