"""Methods that fill holes: OpenCV's two, scikit-image's one, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from lama.inference import batch_inference, load_lama_model

#: A function from RGB uint8 H×W×3 and bool H×W to a filled picture, or None if it is not feasible.
Method = Callable[[np.ndarray, np.ndarray], np.ndarray | None]

#: Pixels around the hole that OpenCV's methods use.
_RADIUS = 3

#: The most pixels of a hole for which the biharmonic equation is solved: its time and memory grow
#: faster than the hole's connected parts. Text on a page takes seconds.
BIHARMONIC_MOST = 400_000


def _opencv(flag: int) -> Method:
    def fill(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
        return cv2.inpaint(picture, hole.astype(np.uint8) * 255, _RADIUS, flag)

    return fill


def biharmonic(picture: np.ndarray, hole: np.ndarray) -> np.ndarray | None:
    """scikit-image's biharmonic fill; None for a hole of more than BIHARMONIC_MOST pixels."""
    from skimage.restoration import inpaint_biharmonic

    if hole.sum() > BIHARMONIC_MOST:
        return None
    filled = inpaint_biharmonic(picture, hole, channel_axis=2, split_into_regions=True)
    scaled: np.ndarray = (np.clip(filled, 0, 1) * 255 + 0.5).astype(np.uint8)
    return scaled


CLASSICAL: dict[str, Method] = {
    "telea": _opencv(cv2.INPAINT_TELEA),
    "navier-stokes": _opencv(cv2.INPAINT_NS),
    "biharmonic": biharmonic,
}


def checkpoint_method(path: Path, config: Path | None, device: str, half: bool) -> Method:
    """A network as a method; its config is looked for beside the checkpoint and one folder up."""
    found = config or next(
        (
            place
            for place in (path.parent / "config.yaml", path.parent.parent / "config.yaml")
            if place.is_file()
        ),
        None,
    )
    model, train_config = load_lama_model(found, path, device)

    def fill(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
        mask = hole.astype(np.uint8) * 255
        return batch_inference([picture], [mask], model, train_config, device, half)[0]

    return fill
