"""The network computes what the original computes, and has its keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lama.saicinpainting.training.modules.ffc import FourierUnit, big_lama, lama_fourier
from tests.lama import tiny


@pytest.mark.parametrize(
    ("factory", "entries", "parameters"),
    [(lama_fourier, 521, 27_048_835), (big_lama, 989, 50_975_875)],
)
def test_the_published_networks_have_their_published_size(factory, entries, parameters):
    with torch.device("meta"):
        generator = factory()
    assert len(generator.state_dict()) == entries
    assert sum(p.numel() for p in generator.parameters()) == parameters


def test_factories_take_other_widths():
    with torch.device("meta"):
        generator = lama_fourier(ngf=32)
    assert len(generator.state_dict()) == 521
    assert generator.state_dict()["model.1.ffc.convl2l.weight"].shape == (32, 4, 7, 7)


def test_wide_networks_stop_at_the_largest_number_of_features():
    with torch.device("meta"):
        state = lama_fourier(ngf=256).state_dict()
    assert state["model.4.ffc.convl2g.weight"].shape[:2] == (768, 1024)


@pytest.mark.parametrize(("name", "index"), tiny.SAMPLES)
def test_a_golden_sample_alone_agrees_with_the_original(golden_models, name, index):
    sample = tiny.golden_sample(name, index)
    batch = golden_models[name](tiny.as_batch((sample["image"], sample["mask"])))
    for key, expected in (("predicted_image", "predicted"), ("inpainted", "inpainted")):
        assert np.abs(tiny.as_picture(batch[key][0]) - sample[expected]).max() <= 1e-5


@pytest.mark.parametrize(("name", "index"), tiny.SAMPLES)
def test_a_golden_sample_agrees_beside_other_pictures_in_its_batch(golden_models, name, index):
    sample = tiny.golden_sample(name, index)
    height, width = sample["mask"].shape
    mate = (tiny.picture(height, width), tiny.box_mask(height, width))
    batch = golden_models[name](tiny.as_batch(mate, (sample["image"], sample["mask"]), mate))
    for key, expected in (("predicted_image", "predicted"), ("inpainted", "inpainted")):
        assert np.abs(tiny.as_picture(batch[key][1]) - sample[expected]).max() <= 1e-5


def test_the_model_takes_a_batch_and_returns_it_in_eval_mode_without_gradients(golden_models):
    model = golden_models["blocks9-ngf8"]
    batch = tiny.as_batch((tiny.picture(16, 24), tiny.box_mask(16, 24)))
    result = model(batch)
    assert result is batch
    assert not model.training
    assert not result["predicted_image"].requires_grad
    assert result["inpainted"].shape == (1, 3, 16, 24)
    known = result["mask"].expand(-1, 3, -1, -1) == 0
    assert torch.equal(result["inpainted"][known], result["image"][known])


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (3, 2), (8, 1)])
def test_a_fourier_unit_keeps_odd_and_even_sizes(size):
    unit = FourierUnit(3, 5).eval()
    assert unit(torch.rand(2, 3, *size)).shape == (2, 5, *size)


def test_a_fourier_unit_interleaves_real_and_imaginary_parts_by_channel():
    unit = FourierUnit(2, 2).eval().requires_grad_(False)
    # Keep the real part of channel 1 (index 2 of re0, im0, re1, im1), drop all else.
    unit.conv_layer.weight.zero_()
    unit.conv_layer.weight[2, 2] = 1
    x = torch.zeros(1, 2, 4, 6)
    x[0, 1] = 3.0
    x[0, 0] = 5.0
    y = unit(x)
    # A constant has one frequency, real and positive: ReLU and the way back leave it as it is.
    assert torch.allclose(y[0, 1], x[0, 1], atol=1e-4)
    assert torch.count_nonzero(y[0, 0]) == 0
