"""Folds a generator's batch norms into its convolutions, in float32.

A batch norm in eval mode is x · scale + shift per channel. Behind a convolution it equals that
convolution with scaled rows and a bias. `bn_l` and `bn_g` follow a *sum* of two branches: each
branch's last convolution is scaled, and one of them has the bias for both.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from lama.saicinpainting.training.modules.ffc import (
    FFC_BN_ACT,
    FFCResnetBlock,
    FFCResNetGenerator,
    SpectralTransform,
)

#: Bytes are read as multiples of 1/256, which every dtype holds exactly; the network needs 1/255.
INPUT_SCALE = 256 / 255


@dataclass(frozen=True)
class Affine:
    """A convolution's weight and bias, float32, on the CPU."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class FoldedLayer:
    """One FFC of a residual block: six convolutions."""

    local_to_local: Affine
    global_to_local: Affine
    local_to_global: Affine
    #: The spectral transform: in front of the Fourier unit, inside it, and behind it.
    reduce: Affine
    spectrum: Affine
    expand: Affine


@dataclass(frozen=True)
class FoldedGenerator:
    """The weights of a whole generator."""

    stem: Affine
    #: Without the last one, which splits the channels: `to_local` and `to_global`.
    downs: list[Affine]
    to_local: Affine
    to_global: Affine
    blocks: list[tuple[FoldedLayer, FoldedLayer]]
    #: Weights of transposed convolutions: in × out × 3 × 3.
    ups: list[Affine]
    last: Affine

    def is_finite(self) -> bool:
        """Whether no weight is infinite or NaN."""
        layers = [layer for block in self.blocks for layer in block]
        affines = [getattr(layer, field.name) for layer in layers for field in fields(layer)]
        affines += [self.stem, *self.downs, self.to_local, self.to_global, *self.ups, self.last]
        tensors = [t for affine in affines for t in (affine.weight, affine.bias) if t is not None]
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def fold(generator: FFCResNetGenerator) -> FoldedGenerator:
    """The folded weights of a generator, whose own tensors are not changed."""
    config = generator.config
    layers = list(generator.model)
    stem, last = layers[1], layers[-2]
    assert isinstance(last, nn.Conv2d)
    downs = layers[2 : 2 + config.n_downsampling]
    blocks = [layer for layer in layers if isinstance(layer, FFCResnetBlock)]
    ups = [i for i, layer in enumerate(layers) if isinstance(layer, nn.ConvTranspose2d)]
    first = _convolution(_only(stem).ffc.convl2l, _only(stem).bn_l)
    *plain, parting = [_only(down) for down in downs]
    return FoldedGenerator(
        stem=Affine(first.weight * INPUT_SCALE, first.bias),
        downs=[_convolution(down.ffc.convl2l, down.bn_l) for down in plain],
        to_local=_convolution(parting.ffc.convl2l, parting.bn_l),
        to_global=_convolution(parting.ffc.convl2g, parting.bn_g),
        blocks=[(_layer(block.conv1), _layer(block.conv2)) for block in blocks],
        ups=[_transposed(layers[i], layers[i + 1]) for i in ups],
        last=_affine(last.weight, last.bias),
    )


def _layer(module: FFC_BN_ACT) -> FoldedLayer:
    ffc, spectral = module.ffc, module.ffc.convg2g
    assert isinstance(spectral, SpectralTransform)
    assert ffc.convl2g is not None
    assert ffc.convg2l is not None
    assert module.bn_g is not None
    local_scale, _ = _scale_and_shift(module.bn_l)
    global_scale, _ = _scale_and_shift(module.bn_g)
    reduce, norm = spectral.conv1[0], spectral.conv1[1]
    return FoldedLayer(
        local_to_local=_convolution(ffc.convl2l, module.bn_l),
        global_to_local=_affine(_scaled(ffc.convg2l.weight, local_scale)),
        local_to_global=_convolution(ffc.convl2g, module.bn_g),
        reduce=_convolution(reduce, norm),
        spectrum=_convolution(spectral.fu.conv_layer, spectral.fu.bn),
        expand=_affine(_scaled(spectral.conv2.weight, global_scale)),
    )


def _only(module: nn.Module) -> FFC_BN_ACT:
    assert isinstance(module, FFC_BN_ACT)
    return module


def _convolution(conv: nn.Module | None, norm: nn.Module | None) -> Affine:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    scale, shift = _scale_and_shift(norm)
    return _affine(_scaled(conv.weight, scale), shift)


def _transposed(conv: nn.Module, norm: nn.Module) -> Affine:
    """A transposed convolution, whose weight is in × out × 3 × 3, and which has its own bias."""
    assert isinstance(conv, nn.ConvTranspose2d)
    assert isinstance(norm, nn.BatchNorm2d)
    scale, shift = _scale_and_shift(norm)
    bias = shift if conv.bias is None else conv.bias.detach().cpu().float() * scale + shift
    return _affine(conv.weight.detach().cpu().float() * scale.view(1, -1, 1, 1), bias)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The factor and the summand of a batch norm for each channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.cpu().double(), norm.running_var.cpu().double()
    scale = norm.weight.detach().cpu().double() / torch.sqrt(variance + norm.eps)
    shift = norm.bias.detach().cpu().double() - mean * scale
    return scale.float(), shift.float()


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    """Scales each output channel: out × in × k × k."""
    return weight.detach().cpu().float() * scale.view(-1, 1, 1, 1)


def _affine(weight: Tensor, bias: Tensor | None = None) -> Affine:
    return Affine(
        weight.detach().cpu().float(), None if bias is None else bias.detach().cpu().float()
    )
