"""The terms of the training loss: how far a fill is from the original.

None of them needs a pretrained network, as LaMa's perceptual term does. Every term over the hole is
a mean over the hole's own pixels, so a thin glyph weighs as much as a large box.

Throughout: `filled` and `image` B×3×H×W, `mask` B×1×H×W with 1 in the hole, all float32.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor


def known_l1(predicted: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """L1 of the network's own output outside the hole, mean over all pixels as in the paper."""
    return ((predicted - image).abs() * (1 - mask)).mean()


def each_hole(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over each picture's hole: B×C×H×W to B."""
    area = mask.sum(dim=(1, 2, 3)).clamp(min=1) * error.shape[1]
    return (error * mask).sum(dim=(1, 2, 3)) / area


def over_hole(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over each picture's hole, then over pictures. `error` B×C×H×W."""
    return each_hole(error, mask).mean()


def hole_l1(filled: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    return over_hole((filled - image).abs(), mask)


def decibels(filled: Tensor, image: Tensor, mask: Tensor, floor: float) -> Tensor:
    """log10 of each picture's mean squared error over the hole: a tenth of its PSNR, negative.

    It rewards what the mean PSNR over pictures rewards: a flat ground that is half a level better
    counts like a texture that is five levels better. It levels off at `floor` dB.
    """
    error = each_hole((filled - image).square(), mask)
    return (error + 10 ** (-floor / 10)).log10().mean() + floor / 10


def local_decibels(
    filled: Tensor, image: Tensor, mask: Tensor, floor: float, window: int = 9
) -> Tensor:
    """log10 of the mean squared error around each pixel of the hole, down to `floor` dB.

    The worst places of a picture decide its `decibels`: where an edge was missed, the tone of the
    flat ground beside it no longer counts. Here each place counts by the ratio of its own error. A
    place is the part of the hole in a window of `window` pixels around a pixel.
    """
    local = partial(F.avg_pool2d, kernel_size=window, stride=1, padding=window // 2)
    error = (filled - image).square().mean(1, keepdim=True)
    error = local(error * mask) / local(mask).clamp(min=1 / window**2)
    return over_hole((error + 10 ** (-floor / 10)).log10(), mask) + floor / 10


def dissimilarity(filled: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """1 - SSIM over the hole grown by 8 pixels, mean over its pixels, then over pictures.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004,
    with a window of 7×7 of equal weights, per channel. It notices a faint pattern on a flat ground,
    which a mean squared error hardly does, and whether a fill has the grain of its ground.
    """
    window = partial(F.avg_pool2d, kernel_size=7, stride=1, padding=3, count_include_pad=False)
    # Variances of almost constant values are differences of almost equal numbers; values around 0
    # keep them accurate.
    x, y = filled - 0.5, image - 0.5
    mean, wanted = window(x), window(y)
    # The variance of a sample.
    share = 49 / 48
    variance = (window(x * x) - mean * mean) * share
    wanted_variance = (window(y * y) - wanted * wanted) * share
    covariance = (window(x * y) - mean * wanted) * share
    mean, wanted = mean + 0.5, wanted + 0.5
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean * wanted + c1) * (2 * covariance + c2)) / (
        (mean * mean + wanted * wanted + c1) * (variance + wanted_variance + c2)
    )
    return over_hole(1 - similarity, F.max_pool2d(mask, 17, stride=1, padding=8))
