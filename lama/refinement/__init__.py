"""Refinement of large holes: deep features are optimised until a picture's scales agree.

Kulshreshtha, Pugh, Jiddi, "Feature Refinement to Improve High Resolution Image Inpainting",
arXiv 2206.13644. A hole that is much larger than those the network was trained with is filled with
blur or with repetitions. At a smaller scale of the picture it is not so large, and is filled in the
normal way. At each larger scale the features in the middle of the network are then optimised until
the output, made smaller, agrees with the scale below.

    holes.py      chooses the holes that are large enough, and the windows around them
    budget.py     limits the cost
    pyramid.py    a picture and its hole at all scales
    halves.py     the front and the rear of the generator
    agreement.py  the optimisation at one scale

The optimisation needs gradients, which the engine doesn't have: it uses the generator itself. The
smallest scale is filled in the normal way, by `lama.inference`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch

from lama.engine.precision import decide
from lama.inference import batch_inference
from lama.padding import pad
from lama.regions import Padding
from lama.regions.boxes import content, whole
from lama.saicinpainting.training.trainers import InpaintingModel

from .agreement import agree
from .budget import Budget
from .halves import Halves
from .holes import LargeHole, halvings, large_holes, surroundings, window
from .pyramid import Scale, as_pictures, composite, pyramid

__all__ = ["Budget", "Refiner"]

logger = logging.getLogger(__name__)


class Refiner:
    """Refines filled pictures; may be called from several threads, which take turns."""

    def __init__(
        self,
        model: InpaintingModel,
        device: str | torch.device,
        *,
        use_fp16: bool = False,
        mask_threshold: int = 0,
        budget: Budget | None = None,
        progressed: Callable[[], None] = lambda: None,
    ) -> None:
        """`use_fp16` and `mask_threshold` are those of the normal fills (`batch_inference`).

        The optimisation runs in bfloat16 if the network does. `progressed` is called after each
        step, usually every few seconds.
        """
        self.budget = budget or Budget()
        self._model = model
        self._device = torch.device(device)
        self._use_fp16 = use_fp16
        self._halves = Halves(model.generator, self.budget.rear_blocks)
        self._threshold = mask_threshold
        self._progressed = progressed
        dtype = decide(device, use_fp16).dtype
        # On a GPU the gradients would leave float16's range.
        self._dtype = dtype if dtype == torch.bfloat16 else torch.float32
        self._lock = threading.Lock()

    def __call__(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        filled: Sequence[np.ndarray],
        paddings: Sequence[Padding] | None = None,
    ) -> list[np.ndarray]:
        """`filled`, with the large holes of `images` filled anew.

        Takes uint8 H×W×3 pictures of any sizes, uint8 H×W or H×W×1 masks, and the pictures filled
        in the normal way, which are not changed; those without a large hole are returned
        themselves. A hole is large if a circle of `budget.least_extent` pixels fits into it,
        outside the padding, and its ground is not a plane of colour. A hole keeps its normal fill
        if the budget or the memory does not suffice, or if no finite values result. A result does
        not depend on the other pictures; on a CPU the same input gives the same bytes.
        """
        if paddings is None:
            paddings = [(0, 0, 0, 0)] * len(images)
        results = []
        for image, mask, usual, padding in zip(images, masks, filled, paddings, strict=True):
            hole = mask.reshape(mask.shape[:2]) > self._threshold
            results.append(self._refined(image, hole, usual, padding))
        return results

    def fill(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Fills whole pictures in the normal way, and then refines them.

        Where pictures are shown to the network in parts (`lama.regions`), call this object with the
        results instead: a window close around a hole shows too little at a smaller scale.
        """
        return self(images, masks, self._filled(images, masks))

    def _filled(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The normal way."""
        return batch_inference(
            images, masks, self._model, {}, self._device, self._use_fp16, self._threshold
        )

    def _refined(
        self, image: np.ndarray, hole: np.ndarray, usual: np.ndarray, padding: Padding
    ) -> np.ndarray:
        inside = content(hole.shape, padding)
        large = large_holes(image, hole, inside, self.budget.least_extent)
        if not large:
            return usual
        result, left = usual.copy(), self.budget.pixels
        for target in large:
            try:
                with self._lock:
                    found, used = self._patch(image, hole, target, left)
            except (RuntimeError, MemoryError) as error:
                # A picture must not fail because it could not be improved: it has its normal fill.
                logger.warning("a hole of %d×%d is not refined: %s", *target.box.size, error)
                continue
            left -= used
            if found is not None:
                result[target.box.slices][target.own] = found[target.own]
        return result

    def _patch(
        self, image: np.ndarray, hole: np.ndarray, target: LargeHole, left: int
    ) -> tuple[np.ndarray | None, int]:
        """uint8 h×w×3 for the box of a hole, or None, and the number of optimised pixels."""
        around = surroundings(target.box, whole(hole))
        count = halvings(around, self.budget.smallest_side)
        if count == 0:
            return None, 0  # the normal way has filled it at that scale
        own = np.zeros_like(hole)
        own[target.box.slices] = target.own
        unit = self._halves.unit
        size = tuple(-(-side // (unit << count)) * (unit << count) for side in around.size)
        picture, holes, its_own = (
            pad(array[around.slices], (size[0], size[1])) for array in (image, hole, own)
        )
        scales = pyramid(picture, holes, its_own, count, self._device)
        windows = [window(scale.own, 2 * unit) for scale in scales[:-1]]
        cost = sum(part.size[0] * part.size[1] for part in windows)
        if cost > left:
            logger.info(
                "a hole of %d×%d is not refined: that needs %d pixels of a picture's %d",
                *target.box.size,
                cost,
                self.budget.pixels,
            )
            return None, 0
        lower = self._smallest(scales[-1])
        for scale, part in reversed(list(zip(scales[:-1], windows, strict=True))):
            shown = scale.cut(part)
            below = lower[:, :, part.top // 2 : part.bottom // 2, part.left // 2 : part.right // 2]
            found = agree(self._halves, shown, below, self.budget, self._dtype, self._progressed)
            if found is None:
                return None, cost
            lower = composite(scale, part, found)
        box = target.box.moved(-around.top, -around.left)
        return as_pictures(lower)[0][box.slices], cost

    def _smallest(self, scale: Scale) -> torch.Tensor:
        """1×3×h×w in [0, 1]: the smallest scale, filled in the normal way."""
        picture = as_pictures(scale.image)[0]
        mask = (scale.hole[0, 0] > 0).cpu().numpy().astype(np.uint8) * np.uint8(255)
        (filled,) = self._filled([picture], [mask])
        self._progressed()
        # H, W, 3 -> 1, 3, H, W
        return torch.from_numpy(filled).permute(2, 0, 1)[None].to(self._device).float() / 255
