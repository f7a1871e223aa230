"""What the network fills of a picture: pictures of three channels, and the way back.

The colours are the first layer. Alpha is filled like a grey picture, else the silhouette of erased
text would stay in it. Of a CMYK picture the coloured inks are one layer and black is another, so
that black-only ground stays black-only. Alpha or ink that is the same all around the hole needs no
network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from core.pixels.arrays import Hole
from core.pixels.arrays import Picture as Array

#: uint8 or uint16, H×W×C.
Channels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def layers_of(channels: Channels, mode: str, hole: Hole) -> list[Array]:
    """The layers, uint8 H×W×3. `mode` is L, LA, RGB, RGBA or CMYK."""
    if not hole.any():
        return []
    array = of_8_bits(channels)
    if mode == "CMYK":
        inks = np.bitwise_not(array)
        parts = [inks[..., :3], inks[..., 3:]]
        return [_three(part) for part in parts if _common(part, hole) is None]
    if mode not in ("LA", "RGBA"):
        return [_three(array)]
    alpha = array[..., -1:]
    layers = [_without_clear(_three(array[..., :-1]), alpha[..., 0], hole)]
    if _common(alpha, hole) is None:
        layers.append(_three(alpha))
    return layers


def joined(channels: Channels, mode: str, filled: Sequence[Array], hole: Hole) -> Channels:
    """The channels with the hole filled; `filled` are the layers in their order."""
    if not hole.any():
        return channels
    array = of_8_bits(channels)
    coming = iter(filled)

    def part(own: Array, back: Callable[[Array], Array] = lambda layer: layer) -> Array:
        """Filled like the ground around the hole if that is all the same, else by the network."""
        common = _common(own, hole)
        if common is not None:
            return np.broadcast_to(common, own.shape)
        layer = next(coming)
        return back(layer if own.shape[2] == 3 else _grey(layer))

    if mode == "CMYK":
        new = np.dstack(
            [part(array[..., :3], np.bitwise_not), part(array[..., 3:], np.bitwise_not)]
        )
    else:
        colours = next(coming)
        new = colours if mode.startswith("RGB") else _grey(colours)
        if mode.endswith("A"):
            new = np.dstack([new, part(array[..., -1:])])
    inside = hole[..., None]
    if channels.dtype == np.uint16:
        return np.where(inside, new.astype(np.uint16) * np.uint16(257), channels)
    return np.where(inside, new, channels)


def _common(part: Array, hole: Hole) -> Array | None:
    """The values of the pixels outside the hole if all of them are the same, else None."""
    seen = part[~hole]
    if not len(seen) or (seen != seen[0]).any():
        return None
    return np.asarray(seen[0])


def _without_clear(colours: Array, alpha: Array, hole: Hole) -> Array:
    """The colours with those of invisible pixels replaced by the nearest visible ones.

    Editors leave any colour under alpha 0. The network must not take it for the ground.
    """
    visible = (alpha > 0) & ~hole
    if visible.all() or not visible.any() or not (alpha[~hole] == 0).any():
        return colours
    unseen = np.uint8(1) - visible.view(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(
        unseen, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    table[labels[visible]] = colours[visible]
    return np.asarray(table[labels])


def of_8_bits(channels: Channels) -> Array:
    """The channels with 8 bits, rounded."""
    if channels.dtype == np.uint8:
        return channels  # type: ignore[return-value]
    return np.asarray((channels.astype(np.uint32) + 128) // 257, np.uint8)


def _three(part: Array) -> Array:
    if part.shape[2] == 1:
        return np.repeat(part, 3, axis=2)
    return np.ascontiguousarray(part)


def _grey(layer: Array) -> Array:
    """H×W×1"""
    return np.asarray(cv2.cvtColor(layer, cv2.COLOR_RGB2GRAY), np.uint8)[..., None]
