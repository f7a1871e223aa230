"""A generator that begins as a wavelet transform passes pictures on before it has learnt."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from lama.saicinpainting.training.modules.ffc import FFCResNetGenerator, GeneratorConfig
from lama.training import wavelet


def soft_pictures(count: int, side: int = 64) -> Tensor:
    """B×3×H×W in [0, 1]: smooth in colour, sharper in light."""
    pictures = []
    for index in range(count):
        rng = np.random.default_rng(index)
        colours, light = rng.random((4, 4, 3)), rng.random((16, 16, 1)) - 0.5
        colours = cv2.resize(colours, (side, side), interpolation=cv2.INTER_CUBIC)
        light = cv2.resize(light, (side, side), interpolation=cv2.INTER_CUBIC)[..., None]
        pictures.append(np.clip(0.6 * colours + 0.2 + 0.2 * light, 0, 1))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


def begun(ngf: int = 32) -> FFCResNetGenerator:
    torch.manual_seed(1)
    generator = FFCResNetGenerator(GeneratorConfig(ngf=ngf, n_blocks=2)).eval()
    masks = torch.zeros(4, 1, 64, 64)
    masks[..., 20:40, 10:50] = 1
    wavelet.begin_as_wavelet(generator, soft_pictures(4), masks)
    return generator


def psnr(one: Tensor, other: Tensor) -> float:
    return -10 * math.log10(float((one - other).square().mean()))


@pytest.fixture(scope="module")
def generator() -> FFCResNetGenerator:
    return begun()


@torch.no_grad()
def painted(generator: FFCResNetGenerator, images: Tensor) -> Tensor:
    return generator(torch.cat([images, torch.zeros_like(images[:, :1])], dim=1))


def test_a_picture_without_a_hole_comes_out_nearly_as_it_went_in(generator):
    images = soft_pictures(6)[4:]
    assert psnr(painted(generator, images), images) > 30


def test_without_the_blocks_only_the_finest_colour_is_lost():
    generator = begun()
    for name, parameter in generator.named_parameters():
        if ".conv2.bn_" in name:
            parameter.data.fill_(0)
    images = soft_pictures(6)[4:]
    assert psnr(painted(generator, images), images) > 39


def test_black_and_white_come_out_as_such(generator):
    for value in (0.0, 1.0):
        images = torch.full((1, 3, 64, 64), value)
        assert (painted(generator, images) - value).abs().mean() < 0.05


def test_every_batch_norm_has_finite_statistics(generator):
    for name, tensor in generator.state_dict().items():
        assert torch.isfinite(tensor.float()).all(), name
        if name.endswith("running_var"):
            assert (tensor > 0).all(), name


def test_every_component_has_one_place_at_the_bottom_and_a_twin_unless_it_is_the_mask():
    layout = wavelet._bottom(256)
    assert len(layout) == 256
    for component in wavelet.components(3):
        signs = [place.sign for place in layout if place and place.component == component]
        assert signs == ([1] if component.plane == "M" else [1, -1])


def test_the_hinges_add_up_to_the_logit_behind_the_sigmoid():
    knots, slopes = wavelet._hinges()
    d = np.linspace(0, 0.497, 300)
    logit = np.maximum(0, d[:, None] - knots) @ np.array(slopes)
    assert np.abs(1 / (1 + np.exp(-logit)) - (0.5 + d)).max() < 0.01


def test_a_generator_too_narrow_for_the_transform_is_refused():
    generator = FFCResNetGenerator(GeneratorConfig(ngf=16, n_blocks=2))
    with pytest.raises(ValueError, match="ngf = 16"):
        wavelet.begin_as_wavelet(generator, soft_pictures(1), torch.zeros(1, 1, 64, 64))
