"""An endless sequence of batches, each a pure function of the seed and its number.

So a resumed run sees the batches that it would have seen without the interruption. The host makes
the random choices and draws pictures, ahead of time and in parallel to the training; the device
scales, flips, tints and rasterises the masks.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from lama.training.data.colours import Tint, apply_tints, random_tint, smooth
from lama.training.data.masks import KINDS, HolePlan, glyphs, rasterise, text_lines
from lama.training.data.pages import page
from lama.training.data.pictures import Crops, Pictures

#: Share of each kind of hole.
MASK_SHARES: Mapping[str, float] = {
    "lines": 0.28,
    "paragraphs": 0.2,
    "glyphs": 0.28,
    "strokes": 0.12,
    "boxes": 0.12,
}


@dataclass(frozen=True)
class Recipe:
    """The composition of batches."""

    #: Pictures in a batch of the smallest crops.
    batch: int
    #: Sides of the square crops, pixels; each batch has one of them. Multiples of 8.
    sides: tuple[int, ...]
    #: Share of drawn pictures.
    drawn: float = 0.35
    #: Share of each kind of hole.
    masks: tuple[tuple[str, float], ...] = tuple(MASK_SHARES.items())
    crops: Crops = field(default_factory=Crops)
    #: Share of batches that are smoothed by the bilateral filter.
    smoothed: float = 0.25
    #: Share of photographs' crops that are upside down; half of all are mirrored.
    upended: float = 0.1
    #: Share of photographs' crops that are transposed: with the flips that gives quarter turns.
    transposed: float = 0.0

    def pictures(self, side: int) -> int:
        """The pictures in a batch of crops of this side: fewer of larger ones, for equal steps."""
        return max(2, round(self.batch * (min(self.sides) / side) ** 2))


@dataclass
class PicturePlan:
    """The plan of one picture of a batch; by default it is used unchanged."""

    picture: np.ndarray
    hole: HolePlan
    tint: Tint = field(default_factory=Tint.none)
    mirrored: bool = False
    upended: bool = False
    transposed: bool = False


@dataclass
class BatchPlan:
    size: tuple[int, int]
    smoothed: bool
    plans: list[PicturePlan]


def plan_batch(pictures: Pictures, recipe: Recipe, seed: int, step: int) -> BatchPlan:
    """The host's part of the batch with the number `step`."""
    rng = np.random.default_rng([seed, step])
    side = int(recipe.sides[rng.integers(len(recipe.sides))])
    size = (side, side)
    smoothed = bool(rng.random() < recipe.smoothed)
    plans = [_plan(rng, pictures, recipe, size) for _ in range(recipe.pictures(side))]
    return BatchPlan(size, smoothed, plans)


def _plan(rng: Generator, pictures: Pictures, recipe: Recipe, size: tuple[int, int]) -> PicturePlan:
    names, shares = zip(*recipe.masks, strict=True)
    kind = str(rng.choice(names, p=np.array(shares) / sum(shares)))
    if rng.random() < recipe.drawn:
        picture, slots = page(rng, size, pictures.photograph)
        if slots and rng.random() < 0.85:
            # The hole is where the page's own text would stand.
            hole = glyphs(rng, slots, size) if kind == "glyphs" else text_lines(rng, slots)
        else:
            hole = KINDS[kind](rng, size)
        return PicturePlan(picture, hole)
    picture = pictures.crop(rng, size)
    tint = random_tint(rng)
    mirrored = bool(rng.random() < 0.5)
    upended = bool(rng.random() < recipe.upended)
    transposed = bool(rng.random() < recipe.transposed)
    return PicturePlan(picture, KINDS[kind](rng, size), tint, mirrored, upended, transposed)


def make_batch(plan: BatchPlan, device: torch.device) -> tuple[Tensor, Tensor]:
    """The device's part: pictures B×3×H×W in [0, 1], masks B×1×H×W with 1 in the hole; float32."""
    scaled = []
    for picture in plan.plans:
        # h, w, 3 bytes -> 1, 3, h, w
        source = torch.from_numpy(np.ascontiguousarray(picture.picture)).to(device)
        source = source.permute(2, 0, 1)[None].float()
        if source.shape[2:] != plan.size:
            how = "bicubic" if source.shape[2] < plan.size[0] else "bilinear"
            source = F.interpolate(source, plan.size, mode=how, antialias=True)
        if picture.mirrored:
            source = source.flip(3)
        if picture.upended:
            source = source.flip(2)
        if picture.transposed:
            source = source.mT
        scaled.append(source)
    images = torch.cat(scaled).div_(255).clamp_(0, 1)
    images = apply_tints(images, [picture.tint for picture in plan.plans])
    if plan.smoothed:
        images = smooth(images)
    masks = rasterise([picture.hole for picture in plan.plans], plan.size, device)
    # A hole outside the picture, or over nearly all of it, teaches nothing: it becomes a box.
    share = masks.mean(dim=(1, 2, 3))
    odd = ((share < 0.002) | (share > 0.7)).view(-1, 1, 1, 1)
    box = torch.zeros_like(masks[:1])
    high, wide = plan.size
    box[:, :, high // 3 : high // 2, wide // 4 : wide * 3 // 4] = 1
    return images, torch.where(odd, box, masks)


def batches(
    pictures: Pictures,
    recipe: Recipe,
    seed: int,
    first: int,
    device: torch.device,
    workers: int = 1,
    processes: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches `first`, `first` + 1, …; close it to stop the planning.

    `workers` threads plan ahead, or processes if `processes` is true: a GPU is faster than threads
    that share the interpreter with the training.
    """
    plan: Callable[[int], BatchPlan] = partial(plan_batch, pictures, recipe, seed)
    pool: Executor
    if processes:
        spawn = multiprocessing.get_context("spawn")
        given = pictures.share(workers), recipe, seed
        pool, plan = ProcessPoolExecutor(workers, spawn, _begin_process, given), _plan_in_process
    else:
        pool = ThreadPoolExecutor(workers, "plans")
    with pool:
        ahead: deque[Future[BatchPlan]] = deque()
        step = first
        try:
            while True:
                while len(ahead) < 2 * workers:
                    ahead.append(pool.submit(plan, step))
                    step += 1
                yield make_batch(ahead.popleft().result(), device)
        finally:
            for future in ahead:
                future.cancel()


#: The pictures and the recipe of a planning process.
_given: list[tuple[Pictures, Recipe, int]] = []


def _begin_process(pictures: Pictures, recipe: Recipe, seed: int) -> None:
    """Initialises a planning process, which ignores Ctrl-C: the training process handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _given[:] = [(pictures, recipe, seed)]


def _plan_in_process(step: int) -> BatchPlan:
    return plan_batch(*_given[0], step)
