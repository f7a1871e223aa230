"""Initialises a generator as a wavelet transform and its inverse, with nearly inactive blocks.

A random generator spends most of a short training on learning to pass a picture through its own
bottleneck. This one can from the first step: the downsamplings are three levels of the Haar
transform, the upsamplings their inverse, the last layers a piecewise linear logit in front of the
sigmoid. Only the hole is left to learn. Channels that the transform does not need stay random.

The blocks end in ReLUs, so they can only add to their input. Therefore each component of the
picture has a twin at the bottom, which the upsamplings subtract. Batch norms begin as the identity,
or with the statistics of the given pictures, and should stay so (`normalisation.batch_until: 0`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lama.saicinpainting.training.modules.ffc import FFC_BN_ACT, FFCResnetBlock, FFCResNetGenerator

#: Signs of the four subbands at the pixels of a 2×2 block: mean, and the differences down, across
#: and along the diagonals.
_HAAR = np.array([[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]])

#: RGB to luma and two differences of colour, each with a range of 1; and back (ITU-R BT.601).
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_TO_RGB = np.linalg.inv(_TO_YCC)

#: The initial output of the blocks, in standard deviations.
_TIMID = 0.01

#: Levels of the transform.
_LEVELS = 3

#: Pieces of the logit on either side of a half.
_PIECES = 5


@dataclass(frozen=True)
class Component:
    """One channel of the transform, which holds `gain * (value + offset)`.

    `plane` is luma (Y), a difference of colour (B, R) or the mask (M); `path` has a subband for
    each level, where 0 is the mean. Luma is relative to a half, which is also its value in a hole.
    """

    plane: str
    path: tuple[int, ...] = ()

    @property
    def _strong(self) -> bool:
        """The spread: means of luma and mask vary over their whole range, all else hardly."""
        return self.plane in "YM" and not any(self.path)

    @property
    def gain(self) -> float:
        return 1.0 if self._strong else 4.0

    @property
    def offset(self) -> float:
        """The offset that keeps it above 0, so that it passes a ReLU; some sharp edges are cut."""
        if self._strong:
            return 0.5 if self.plane == "Y" else 0.0
        return 0.3

    @property
    def children(self) -> list[Component]:
        """Its subbands at half the resolution; the finest detail is dropped, but not luma's."""
        kept = 4 if self.plane == "Y" or self.path else 1
        return [Component(self.plane, (*self.path, band)) for band in range(kept)]

    @property
    def fineness(self) -> int:
        """Levels above the first one that has a difference: 0 for the mean of all."""
        return next((len(self.path) - i for i, band in enumerate(self.path) if band), 0)


@dataclass(frozen=True)
class Place:
    """The content of a channel: a component, or the part to subtract from it."""

    component: Component
    sign: int = 1


#: The channels of a layer; None is an unknown one, and _ONE holds 1.
_ONE = Place(Component("1"))
Layout = list[Place | None]


def components(level: int) -> list[Component]:
    """The components at 1/2**level of the resolution, coarse before fine."""
    found = [Component(plane) for plane in "YBRM"]
    for _ in range(level):
        found = [child for component in found for child in component.children]
    return sorted(found, key=lambda one: one.fineness)


def begin_as_wavelet(generator: FFCResNetGenerator, images: Tensor, masks: Tensor) -> None:
    """Sets the weights; those that the transform does not use stay random.

    `images` B×3×H×W in [0, 1] and `masks` B×1×H×W, 1 in the hole, calibrate the batch norms.
    Raises ValueError for a generator without three downsamplings or with too few channels.
    """
    config = generator.config
    width = config.ngf << _LEVELS
    if config.n_downsampling != _LEVELS or config.ngf < 32 or width > config.max_features:
        raise ValueError(
            f"generator.ngf = {config.ngf}, n_downsampling = {config.n_downsampling}: a beginning "
            "as wavelets needs at least 32 channels and three downsamplings"
        )
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(torch.nan)
    down = [layer for layer in generator.model if isinstance(layer, FFC_BN_ACT)]
    up = [layer for layer in generator.model if isinstance(layer, nn.ConvTranspose2d)]
    norms = [layer for layer in generator.model if isinstance(layer, nn.BatchNorm2d)]
    (last,) = (layer for layer in generator.model if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        layout = _stem(down[0], _fill(components(0), config.ngf))
        for level in range(1, _LEVELS):
            layout = _down(down[level], layout, _fill(components(level), config.ngf << level))
        layout = _down(down[_LEVELS], layout, _bottom(width))
        for block in generator.model:
            if isinstance(block, FFCResnetBlock):
                for norm in (block.conv2.bn_l, block.conv2.bn_g):
                    assert norm is not None
                    norm.weight.fill_(_TIMID)
        for level in range(_LEVELS - 1, 0, -1):
            wanted = [component for component in components(level) if component.plane != "M"]
            step = _LEVELS - 1 - level
            layout = _up(up[step], norms[step], layout, wanted, config.ngf << level)
        _logit(up[-1], norms[-1], last, layout)
        with _calibrated(generator):
            generator(torch.cat([images * (1 - masks), masks], dim=1))


def _fill(found: Sequence[Component], width: int) -> Layout:
    return _filled_up([Place(component) for component in found], width)


def _filled_up(places: Sequence[Place], width: int) -> Layout:
    return [*places, *[None] * (width - len(places))]


def _bottom(width: int) -> Layout:
    """The mask and the coarsest pairs of twins first, so that they are local channels."""
    found = components(_LEVELS)
    mask = [Place(component) for component in found if component.plane == "M"]
    pairs = [
        Place(component, sign) for component in found if component.plane != "M" for sign in (1, -1)
    ]
    return _filled_up([*mask, *pairs], width)


def _stem(layer: FFC_BN_ACT, layout: Layout) -> Layout:
    weight = layer.ffc.convl2l.weight
    middle = weight.shape[2] // 2
    for channel, place in enumerate(layout):
        if place is None:
            continue
        component = place.component
        rgbm = np.zeros(4)
        if component.plane == "M":
            rgbm[3] = 1
        else:
            rgbm[:3] = _TO_YCC["YBR".index(component.plane)]
            rgbm[3] = 0.5 if component.plane == "Y" else 0
        weight[channel] = 0
        weight[channel, :, middle, middle] = torch.from_numpy(rgbm * component.gain).float()
        # Luma is relative to a half, so the picture already has its offset.
        _as_identity(
            layer.bn_l, channel, 0 if component.plane == "Y" else component.gain * component.offset
        )
    return layout


def _down(layer: FFC_BN_ACT, below: Layout, layout: Layout) -> Layout:
    """Each component from the component that it is a subband of: taps 1 and 2, stride 2."""
    parts = [(layer.ffc.convl2l, layer.bn_l), (layer.ffc.convl2g, layer.bn_g)]
    rows = [
        (convolution.weight, norm, row)
        for convolution, norm in parts
        if convolution is not None and norm is not None
        for row in range(convolution.out_channels)
    ]
    for place, (weight, norm, row) in zip(layout, rows, strict=True):
        if place is None:
            continue
        component = place.component
        weight[row] = 0
        bias = component.gain * component.offset
        if place.sign > 0:
            parent = Place(Component(component.plane, component.path[:-1]))
            block = _HAAR[component.path[-1]] / 4 * component.gain / parent.component.gain
            weight[row, below.index(parent), 1:3, 1:3] = torch.from_numpy(block).float()
            if component.path[-1] == 0:
                bias -= component.gain * parent.component.offset
        _as_identity(norm, row, bias)
    return layout


def _up(
    convolution: nn.ConvTranspose2d,
    norm: nn.BatchNorm2d,
    below: Layout,
    wanted: Sequence[Component],
    width: int,
) -> Layout:
    """Each component from its subbands; another channel holds 1, the rest is unknown."""
    assert convolution.bias is not None
    convolution.bias.fill_(0)
    layout = _fill(wanted, width)
    layout[len(wanted)] = _ONE
    for channel, place in enumerate(layout):
        if place is None:
            continue
        convolution.weight[:, channel] = 0
        if place is _ONE:
            _as_identity(norm, channel, 1.0)
            continue
        component = place.component
        _synthesise(convolution.weight, channel, below, component, component.gain)
        _as_identity(norm, channel, component.gain * component.offset)
    return layout


def _synthesise(
    weight: Tensor, channel: int, below: Layout, component: Component, gain: float
) -> None:
    """Adds `gain` times the value of a component, made of its subbands and without its offset."""
    constant = np.zeros((2, 2))
    for source, place in enumerate(below):
        if place is None or place.component not in component.children:
            continue
        child = place.component
        block = place.sign * gain * _HAAR[child.path[-1]]
        # The pixel of parity (a, b) of a block is reached by tap (1 + a, 1 + b).
        weight[source, channel, 1:3, 1:3] += torch.from_numpy(block / child.gain).float()
        constant -= block * child.offset
    if _ONE in below:
        weight[below.index(_ONE), channel, 1:3, 1:3] += torch.from_numpy(constant).float()


def _logit(
    convolution: nn.ConvTranspose2d, norm: nn.BatchNorm2d, last: nn.Conv2d, below: Layout
) -> None:
    """Red, green and blue from the channels `below`, through hinges that add up to the logit."""
    assert convolution.bias is not None
    assert last.bias is not None
    convolution.bias.fill_(0)
    last.weight.fill_(0)
    knots, slopes = _hinges()
    middle = last.weight.shape[2] // 2
    for colour in range(3):
        last.bias[colour] = 0
        for side in (1, -1):
            for piece in range(_PIECES):
                channel = (2 * colour + (side < 0)) * _PIECES + piece
                convolution.weight[:, channel] = 0
                for plane, share in zip("YBR", _TO_RGB[colour], strict=True):
                    _synthesise(
                        convolution.weight, channel, below, Component(plane), float(side * share)
                    )
                _as_identity(norm, channel, -knots[piece])
                last.weight[colour, channel, middle, middle] = side * slopes[piece]


def _hinges() -> tuple[list[float], list[float]]:
    """(knots, slopes) of sum(slope * relu(d - knot)), about the logit of 0.5 + d for d in [0, 0.5).

    The error behind the sigmoid counts. In a piece it is largest where the logit bends most against
    the sigmoid's slope; the knots are placed so that it is equal in all pieces.
    """
    d = np.linspace(0, 0.499, 2000)
    x = 0.5 + d
    density = np.sqrt(2 * d / (x * (1 - x)))
    share = np.cumsum(density) / density.sum()
    knots = np.interp(np.arange(_PIECES) / _PIECES, share, d)
    knots[0] = 0.0
    basis = np.maximum(0, d[:, None] - knots)
    slope = (x * (1 - x))[:, None]
    wanted = np.log(x / (1 - x))[:, None]
    slopes = np.linalg.lstsq(basis * slope, wanted * slope, rcond=None)[0][:, 0]
    return knots.tolist(), slopes.tolist()


def _as_identity(norm: nn.BatchNorm2d, channel: int, bias: float) -> None:
    """Sets a batch norm to pass a channel unchanged, except for a bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.weight[channel] = 1
    norm.bias[channel] = bias
    norm.running_mean[channel] = 0
    norm.running_var[channel] = 1 - norm.eps


@contextmanager
def _calibrated(generator: nn.Module) -> Iterator[None]:
    """A context in which each batch norm without statistics takes those of its input."""

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3))
        unknown = norm.running_var.isnan()
        norm.running_mean[unknown] = mean[unknown]
        norm.running_var[unknown] = variance[unknown].clamp(min=1e-4)

    hooks = [
        module.register_forward_pre_hook(measure)
        for module in generator.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    training = generator.training
    generator.eval()
    try:
        yield
    finally:
        generator.train(training)
        for hook in hooks:
            hook.remove()
