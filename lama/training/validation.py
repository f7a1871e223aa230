"""Validation: one number for weights, on fixed crops of held-out pictures with fixed holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from lama.training.data.batches import BatchPlan, PicturePlan, make_batch
from lama.training.data.masks import KINDS
from lama.training.data.pictures import Crops, Pictures

#: One picture in so many of a folder is held out, up to a maximum.
_EVERY, _MOST = 14, 12

#: The highest PSNR in dB; a flawless fill of a flat ground would otherwise outweigh all others.
CAP = 60.0


def hold_out(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """(pictures to learn from, held-out pictures); a small folder is learnt from completely."""
    held = files[_EVERY // 2 :: _EVERY][:_MOST] or files[:1]
    rest = [path for path in files if path not in held]
    return (rest if len(files) >= _EVERY else files), held


#: Kinds of hole; each picture has one crop for each.
_KINDS = ("lines", "glyphs", "paragraphs")


class Validation:
    """Measures the PSNR over the hole, mean over crops that are always the same."""

    def __init__(
        self,
        files: list[Path],
        side: int,
        device: torch.device,
        scales: tuple[float, float],
    ) -> None:
        plans = []
        for index in range(len(files)):
            picture = Pictures([files[index]], Crops(scales))
            for number, kind in enumerate(_KINDS):
                rng = np.random.default_rng([number, index])
                crop = picture.crop(rng, (side, side))
                hole = KINDS[kind](rng, (side, side))
                plans.append(PicturePlan(crop, hole))
        self._images, self._masks = make_batch(BatchPlan((side, side), False, plans), device)

    @torch.no_grad()
    def psnr(self, generator: nn.Module) -> float:
        """The PSNR of a generator in eval mode, dB."""
        values = []
        for index in range(len(self._images)):
            # Single pictures need little memory.
            image, mask = self._images[index : index + 1], self._masks[index : index + 1]
            masked = torch.cat([image * (1 - mask), mask], dim=1)
            predicted = generator(masked.contiguous(memory_format=torch.channels_last))
            error = ((predicted - image).square() * mask).sum() / (3 * mask.sum()).clamp(min=1)
            values.append(min(CAP, float(-10 * torch.log10(error.clamp(min=1e-9)))))
        return float(np.mean(values))
