"""Adversarial terms (LaMa section 2.3): non-saturating, with R1 and the mask as fake target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_target(mask: Tensor, logits: Tensor) -> Tensor:
    """The mask at the discriminator's resolution, B×1×h×w in {0, 1}.

    A patch is fake if any pixel about its centre is in the hole: a text line is thinner than one
    patch, and would be lost between samples.
    """
    return F.adaptive_max_pool2d(mask, logits.shape[2:])


def generator_loss(fake: Tensor, target: Tensor) -> Tensor:
    """L_G = -E[log D(x̂)] over the patches of the hole.

    `fake`, `target`: B×1×h×w. Elsewhere x̂ has to equal x, for which there is the L1.
    """
    return (F.softplus(-fake) * target).sum() / target.sum().clamp(min=1)


def discriminator_loss(real: Tensor, fake: Tensor, target: Tensor) -> Tensor:
    """L_D = -E[log D(x)] - E[log D(x̂) ⊙ (1 - m)] - E[log(1 - D(x̂)) ⊙ m].

    Logits B×1×h×w of x and x̂, and m, the mask as the fake target: patches outside the hole of a
    filled picture count as real.
    """
    wrong = F.softplus(fake) * target + F.softplus(-fake) * (1 - target)
    return F.softplus(-real).mean() + wrong.mean()


def gradient_penalty(discriminate: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """R1 = E ||∇_x D(x)||² over real pictures (Mescheder et al., arXiv 1801.04406)."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminate(images).sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """L_DiscPL: mean squared difference of the discriminator's features, mean over its stages."""
    terms = [F.mse_loss(one.float(), other.float()) for one, other in zip(fake, real, strict=True)]
    return torch.stack(terms).mean()
