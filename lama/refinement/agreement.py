"""One scale: features are optimised until what they give agrees with the scale below."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lama.regions.boxes import Box, bounds_of, whole

from .budget import Budget
from .halves import Halves
from .pyramid import Scale, smaller

#: Pixels of the smaller scale: so far from the hole's edge the scales are compared. Closer to it
#: the smaller one has a mixture of the hole and what is around it.
_EDGE = 5

#: Pixels about the hole in which what is predicted is compared with the picture itself.
_RING = 16

#: Pixels about the hole that are decoded, as far as the window reaches. Beyond the ring they are
#: for the decoder, which doesn't see further.
_DECODED = 2 * _RING


class Disagreement:
    """How far what is predicted for a window is from the scale below, and from what is known."""

    def __init__(self, shown: Scale, below: Tensor, stride: int) -> None:
        """`below` is the scale below where `shown` is, filled: 1×3×h/2×w/2."""
        own = shown.own[0, 0].cpu().numpy() > 0
        near = bounds_of(own).grown(_DECODED, whole(own))
        step = max(2, stride)
        #: What has to be predicted: its sides are multiples of the stride, and even.
        self.part = Box(
            near.top // step * step,
            near.left // step * step,
            -(-near.bottom // step) * step,
            -(-near.right // step) * step,
        )
        self._shown = shown.cut(self.part)
        rows, columns = (slice(one.start // 2, one.stop // 2) for one in self.part.slices)
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
        """The same with the picture itself, around the hole."""
        return _mean_over(self._ring, predicted - self._shown.image)


def agree(
    halves: Halves,
    shown: Scale,
    below: Tensor,
    budget: Budget,
    dtype: torch.dtype,
    progressed: Callable[[], None],
) -> Tensor | None:
    """What is predicted for a window once it agrees: 1×3×h×w, meant for its own hole only.

    `below` is the scale below, filled, 1×3×h/2×w/2. None where nothing is finite. Of all steps that
    one counts which disagrees least, and that may be the beginning. `dtype` is what the steps are
    computed in; the result is computed in float32.
    """
    features = tuple(one.clone().requires_grad_() for one in halves.front(shown.image, shown.hole))
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
            least, best = now, tuple(one.detach().clone() for one in features)
        if not last:
            # Gradients of the features only, whatever the weights ask for.
            for one, gradient in zip(features, torch.autograd.grad(loss, features), strict=True):
                one.grad = gradient
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
    """1×1×h×w of 0 and 1, whose ones reach `radius` pixels further to all sides."""
    return F.max_pool2d(mask, 2 * radius + 1, stride=1, padding=radius)


def _mean_over(where: Tensor, difference: Tensor) -> Tensor:
    """The mean of |difference|, 1×3×h×w, where 1×1×h×w `where` is 1; 0 if it is nowhere."""
    return (difference.abs() * where).sum() / (3 * where.sum()).clamp(min=1)
