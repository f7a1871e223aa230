"""The optimisation at one scale: features change until their output agrees with the scale below."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lama.regions.boxes import Box, bounds_of, whole

from .budget import Budget
from .halves import Halves
from .pyramid import Scale, smaller

#: Pixels of the smaller scale: the scales are compared where the hole's edge is at least this far
#: away. Closer to it the smaller scale mixes the hole with its surroundings.
_EDGE = 5

#: Pixels around the hole in which the prediction is compared with the picture itself.
_RING = 16

#: Pixels around the hole that are decoded, as far as the window reaches. Those beyond the ring are
#: context for the decoder, which does not see further.
_DECODED = 2 * _RING


class Disagreement:
    """The distance of a prediction for a window from the scale below, and from the known pixels."""

    def __init__(self, shown: Scale, below: Tensor, stride: int) -> None:
        """`below` is the same window of the scale below, filled: 1×3×h/2×w/2."""
        own = shown.own[0, 0].cpu().numpy() > 0
        near = bounds_of(own).grown(_DECODED, whole(own))
        step = max(2, stride)
        #: The part that must be predicted: its sides are multiples of the stride, and even.
        self.part = Box(
            near.top // step * step,
            near.left // step * step,
            -(-near.bottom // step) * step,
            -(-near.right // step) * step,
        )
        self._shown = shown.cut(self.part)
        rows, columns = (slice(side.start // 2, side.stop // 2) for side in self.part.slices)
        self._below = below[:, :, rows, columns]
        share = smaller(self._shown.own)
        deep = 1 - _grown(1 - (share > 0).float(), _EDGE)
        self._deep = deep if bool(deep.any()) else (share > 0.5).float()
        self._ring = _grown(self._shown.own, _RING) * (1 - self._shown.hole)

    def between_scales(self, predicted: Tensor) -> Tensor:
        """Mean absolute difference inside the hole, of values in [0, 1]."""
        own = self._shown.own
        halved = smaller(own * predicted + (1 - own) * self._shown.image)
        return _mean_over(self._deep, halved - self._below)

    def from_known(self, predicted: Tensor) -> Tensor:
        """Mean absolute difference from the picture itself, around the hole."""
        return _mean_over(self._ring, predicted - self._shown.image)


def agree(
    halves: Halves,
    shown: Scale,
    below: Tensor,
    budget: Budget,
    dtype: torch.dtype,
    progressed: Callable[[], None],
) -> Tensor | None:
    """The prediction for a window that agrees best: 1×3×h×w, valid in its own hole only.

    `below` is the scale below, filled, 1×3×h/2×w/2. The result is the step with the least
    disagreement, which may be the first, or None if nothing is finite. The steps are computed in
    `dtype`, the result in float32. `progressed` is called after each step.
    """
    features = tuple(
        feature.clone().requires_grad_() for feature in halves.front(shown.image, shown.hole)
    )
    wanted = Disagreement(shown, below, halves.stride)
    optimizer = torch.optim.Adam(features, lr=budget.learning_rate)
    best, least = None, float("inf")
    for step in range(budget.iterations + 1):
        last = step == budget.iterations
        with (
            torch.set_grad_enabled(not last),
            torch.autocast(shown.image.device.type, torch.bfloat16, dtype != torch.float32),
        ):
            predicted = halves.rear((features[0], features[1]), wanted.part)
        with torch.set_grad_enabled(not last):
            loss = wanted.between_scales(predicted) + wanted.from_known(predicted)
        if (now := loss.item()) < least:
            least, best = now, tuple(feature.detach().clone() for feature in features)
        if not last:
            # Gradients of the features only, even if the weights require some.
            gradients = torch.autograd.grad(loss, features)
            for feature, gradient in zip(features, gradients, strict=True):
                feature.grad = gradient
            optimizer.step()
        progressed()
    if best is None:
        return None
    with torch.no_grad():
        predicted = halves.rear((best[0], best[1]), wanted.part)
    if not bool(torch.isfinite(predicted).all()):
        return None
    around, part = shown.image.shape, wanted.part
    return F.pad(
        predicted,
        (part.left, around[3] - part.right, part.top, around[2] - part.bottom),
    )


def _grown(mask: Tensor, radius: int) -> Tensor:
    """1×1×h×w of 0 and 1, in which the ones reach `radius` pixels further to all sides."""
    return F.max_pool2d(mask, 2 * radius + 1, stride=1, padding=radius)


def _mean_over(where: Tensor, difference: Tensor) -> Tensor:
    """The mean of |difference|, 1×3×h×w, over the ones of `where`, 1×1×h×w; 0 without ones."""
    return (difference.abs() * where).sum() / (3 * where.sum()).clamp(min=1)
