"""Large holes at high resolution: the deep features are refined until the scales agree.

Kulshreshtha, Pugh, Jiddi, "Feature Refinement to Improve High Resolution Image Inpainting",
arXiv 2206.13644. A hole that is much larger than those the network was trained with is filled with
blur or with repetitions; in the picture made smaller it isn't so large. There it is filled as ever,
and at each larger scale the features in the middle of the network are optimised until what comes
out, made smaller, agrees with the scale below.

    holes.py      which holes are large enough, and the windows about them
    budget.py     what it may cost
    pyramid.py    a picture and its hole at all scales
    halves.py     the generator's front and rear
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
    """Refines what was filled; may be called from several threads, which take turns."""

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

        uint8 H×W×3 pictures of any sizes, uint8 H×W or H×W×1 masks, and what the normal way made
        of them, which stays as it is; pictures that have no large hole are handed on. A hole is
        large if a circle of `budget.least_extent` pixels fits into it, outside the padding, and its
        ground is no plane of colour. What the budget doesn't suffice for, what doesn't fit into
        memory, and what gives no finite values keeps its normal fill. A result doesn't depend on
        the pictures beside it; on a CPU the same input gives the same bytes.
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
        for one in large:
            try:
                with self._lock:
                    found, used = self._patch(image, hole, one, left)
            except (RuntimeError, MemoryError) as error:
                # The normal fill is there: a picture must not fail at what was to improve it.
                logger.warning("a hole of %d×%d is not refined: %s", *one.box.size, error)
                continue
            left -= used
            if found is not None:
                result[one.box.slices][one.own] = found[one.own]
        return result

    def _patch(
        self, image: np.ndarray, hole: np.ndarray, one: LargeHole, left: int
    ) -> tuple[np.ndarray | None, int]:
        """uint8 h×w×3 for the box of a hole, or None, and the pixels that were optimised for it."""
        around = surroundings(one.box, whole(hole))
        count = halvings(around, self.budget.smallest_side)
        if count == 0:
            return None, 0  # the normal way has seen it at that scale
        own = np.zeros_like(hole)
        own[one.box.slices] = one.own
        unit = self._halves.unit
        size = tuple(-(-side // (unit << count)) * (unit << count) for side in around.size)
        picture, holes, its_own = (
            pad(array[around.slices], (size[0], size[1])) for array in (image, hole, own)
        )
        scales = pyramid(picture, holes, its_own, count, self._device)
        windows = [window(scale.own, 2 * unit) for scale in scales[:-1]]
        cost = sum(one.size[0] * one.size[1] for one in windows)
        if cost > left:
            logger.info(
                "a hole of %d×%d is not refined: that needs %d pixels of a picture's %d",
                *one.box.size, cost, self.budget.pixels,
            )  # fmt: skip
            return None, 0
        lower = self._smallest(scales[-1])
        for scale, part in reversed(list(zip(scales[:-1], windows, strict=True))):
            shown = scale.cut(part)
            below = lower[:, :, part.top // 2 : part.bottom // 2, part.left // 2 : part.right // 2]
            found = agree(self._halves, shown, below, self.budget, self._dtype, self._progressed)
            if found is None:
                return None, cost
            lower = composite(scale, part, found)
        box = one.box.moved(-around.top, -around.left)
        return as_pictures(lower)[0][box.slices], cost

    def _smallest(self, scale: Scale) -> torch.Tensor:
        """1×3×h×w in [0, 1]: the smallest scale, filled the normal way."""
        picture = as_pictures(scale.image)[0]
        mask = (scale.hole[0, 0] > 0).cpu().numpy().astype(np.uint8) * np.uint8(255)
        (filled,) = self._filled([picture], [mask])
        self._progressed()
        # H, W, 3 -> 1, 3, H, W
        return torch.from_numpy(filled).permute(2, 0, 1)[None].to(self._device).float() / 255
