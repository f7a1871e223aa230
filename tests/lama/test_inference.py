"""Pictures in, filled pictures out: any size, any order, the rest of the picture untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lama.bin.inference import batch_inference, load_lama_model, restore_from_padding
from tests.lama import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_model()


def fill(model, images, masks, **options):
    options = {"device": "cpu", "use_fp16": False, "train_config": {}, **options}
    return batch_inference(images_np=images, masks_np=masks, model=model, **options)


def test_a_network_is_loaded_with_its_config(tmp_path):
    config = tiny.write_config(tmp_path / "config.yaml")
    torch.save(tiny.tiny_state(), tmp_path / "best.ckpt")
    model, train_config = load_lama_model(str(config), str(tmp_path / "best.ckpt"), "cpu")
    assert train_config.generator.n_blocks == 2
    image, mask = tiny.picture(20, 30), tiny.box_mask(20, 30)
    (result,) = batch_inference([image], [mask], model, train_config, torch.device("cpu"), False)
    assert np.array_equal(result, fill(tiny.tiny_model(), [image], [mask])[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="'cuda:0'"):
        load_lama_model("config.yaml", "best.ckpt", "cuda:0")


@pytest.mark.parametrize("name", ["blocks2-ngf16", "blocks9-ngf8"])
def test_golden_samples_of_all_sizes_in_one_call_agree_with_the_original(golden_models, name):
    samples = [tiny.golden_sample(name, index) for n, index in tiny.SAMPLES if n == name]
    images, masks = [s["image"] for s in samples], [s["mask"] for s in samples]
    results = fill(golden_models[name], images, masks)
    for sample, result in zip(samples, results, strict=True):
        hole = sample["mask"] > 0
        assert np.array_equal(result[~hole], sample["image"][~hole])
        # 1e-5 of 255 beside a rounding to whole numbers
        assert np.abs(result[hole] - sample["predicted"][hole] * 255).max() <= 0.503


def test_a_result_does_not_depend_on_its_batch_mates(model):
    sizes = [(24, 40), (17, 33), (24, 40), (60, 20), (22, 38)]
    images = [tiny.picture(*size, seed=i) for i, size in enumerate(sizes)]
    masks = [tiny.box_mask(*size) for size in sizes]
    together = fill(model, images, masks)
    for image, mask, result in zip(images, masks, together, strict=True):
        assert np.array_equal(result, fill(model, [image], [mask])[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 5), (16, 16), (17, 33), (8, 129)])
def test_any_size_works_and_only_the_hole_changes(model, size):
    image, mask = tiny.picture(*size), tiny.box_mask(*size)
    (result,) = fill(model, [image], [mask])
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    assert np.array_equal(result[mask == 0], image[mask == 0])
    assert not np.array_equal(result[mask > 0], image[mask > 0])


def test_padding_mirrors_bottom_and_right_like_the_original(model):
    image, mask = tiny.picture(17, 30), tiny.box_mask(17, 30)
    edge = [(0, 7), (0, 2)]
    padded = np.pad(image, [*edge, (0, 0)], mode="symmetric")
    (expected,) = fill(model, [padded], [np.pad(mask, edge, mode="symmetric")])
    (result,) = fill(model, [image], [mask])
    assert np.array_equal(result, expected[:17, :30])


def test_what_is_under_the_mask_does_not_matter(model):
    image, mask = tiny.picture(32, 32), tiny.box_mask(32, 32)
    painted = image.copy()
    painted[mask > 0] = 255
    assert np.array_equal(fill(model, [image], [mask])[0], fill(model, [painted], [mask])[0])


def test_a_picture_without_a_hole_is_copied_without_the_network():
    image = tiny.picture(20, 20)
    (result,) = fill(tiny.tiny_model(), [image], [np.zeros((20, 20), np.uint8)])
    assert np.array_equal(result, image)
    assert not np.shares_memory(result, image)


def test_inputs_are_left_as_they_are(model):
    image, mask = tiny.picture(20, 20), tiny.box_mask(20, 20)
    before = image.copy(), mask.copy()
    image.flags.writeable = mask.flags.writeable = False
    (result,) = fill(model, [image], [mask])
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])
    assert result.flags.writeable


def test_views_with_any_strides_are_taken(model):
    image, mask = tiny.picture(40, 48), tiny.box_mask(40, 48)
    (expected,) = fill(model, [image[::2, ::-1].copy()], [mask[::2, ::-1].copy()])
    (result,) = fill(model, [image[::2, ::-1]], [mask[::2, ::-1]])
    assert np.array_equal(result, expected)
    assert result.flags.c_contiguous


@pytest.mark.parametrize(("threshold", "holes"), [(0, 3), (1, 2), (127, 1), (254, 1), (255, 0)])
def test_a_value_above_the_threshold_is_a_hole(model, threshold, holes):
    image = np.full((16, 16, 3), 255, np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[3, 3], mask[5, 5], mask[7, 7] = 1, 127, 255
    (result,) = fill(model, [image], [mask], mask_threshold=threshold)
    assert np.count_nonzero((result != image).any(axis=2)) == holes


def test_a_mask_may_have_a_third_axis(model):
    image, mask = tiny.picture(20, 28), tiny.box_mask(20, 28)
    (expected,) = fill(model, [image], [mask])
    assert np.array_equal(fill(model, [image], [mask[:, :, None]])[0], expected)


def test_no_pictures_give_no_results(model):
    assert fill(model, [], []) == []


GOOD = tiny.picture(8, 9), tiny.box_mask(8, 9)


@pytest.mark.parametrize(
    ("image", "mask", "said"),
    [
        (GOOD[0].astype(np.float32), GOOD[1], r"images_np\[1\] is float32"),
        (GOOD[0].tolist(), GOOD[1], r"images_np\[1\] is list"),
        (GOOD[0][:, :, 0], GOOD[1], r"images_np\[1\] has shape \(8, 9\)"),
        (np.zeros((8, 9, 4), np.uint8), GOOD[1], r"images_np\[1\] has shape \(8, 9, 4\)"),
        (np.zeros((0, 9, 3), np.uint8), GOOD[1], r"images_np\[1\] has shape \(0, 9, 3\)"),
        (GOOD[0], GOOD[1] > 0, r"masks_np\[1\] is bool"),
        (GOOD[0], None, r"masks_np\[1\] is NoneType"),
        (GOOD[0], GOOD[1].T, r"masks_np\[1\] has shape \(9, 8\), its picture \(8, 9, 3\)"),
        (GOOD[0], GOOD[0], r"masks_np\[1\] has shape \(8, 9, 3\)"),
    ],
)
def test_input_of_another_form_is_an_error_that_names_it(model, image, mask, said):
    with pytest.raises(ValueError, match=said):
        fill(model, [GOOD[0], image], [GOOD[1], mask])


def test_every_picture_needs_a_mask(model):
    with pytest.raises(ValueError, match="2 images_np but 1 masks_np"):
        fill(model, [GOOD[0], GOOD[0]], [GOOD[1]])


def test_weights_that_explode_give_an_error_that_names_the_picture():
    model = tiny.tiny_model()
    model.generator.model[1].ffc.convl2l.weight.fill_(float("inf"))
    bright = np.full((16, 16, 3), 255, np.uint8)
    no_hole, hole = np.zeros((16, 16), np.uint8), tiny.box_mask(16, 16)
    with pytest.raises(FloatingPointError, match=r"images_np\[1\]"):
        fill(model, [bright, bright], [no_hole, hole])


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_restoring_cuts_the_padding_off(channels):
    inner = np.random.default_rng(1).integers(0, 256, (10, 14, *channels), dtype=np.uint8)
    padded = np.pad(inner, [(1, 3), (4, 2)] + [(0, 0)] * len(channels))
    restored = restore_from_padding(padded, [1, 2, 3, 4], [10, 14])
    assert np.array_equal(restored, inner)
    assert not np.shares_memory(restored, padded)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_restoring_resizes_bilinearly_to_the_original_size(channels):
    # A ramp stays a ramp under bilinear interpolation.
    ramp = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8), (8, 20))
    image = np.ascontiguousarray(np.broadcast_to(ramp.reshape(8, 20, *[1] * len(channels)),
                                                 (8, 20, *channels)))  # fmt: skip
    restored = restore_from_padding(image, (0, 0, 0, 0), (16, 40))
    assert restored.shape == (16, 40, *channels)
    assert restored.dtype == np.uint8
    row = restored[5].reshape(40, -1)[:, 0].astype(int)
    assert set(np.diff(row[1:-1])) <= {4, 5, 6}


def test_restoring_takes_numpy_numbers():
    image = tiny.picture(12, 12)
    assert restore_from_padding(image, np.array([2, 2, 2, 2]), np.array([8, 8])).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("padding", "size", "said"),
    [
        ([6, 0, 6, 0], [4, 4], r"\[6, 0, 6, 0\] leaves nothing of \(12, 12, 3\)"),
        ([20, 0, 0, 0], [4, 4], "leaves nothing"),
        ([0, 0, 20, 0], [4, 4], "leaves nothing"),
        ([-1, 0, 0, 0], [4, 4], r"padding_info is \[-1, 0, 0, 0\]"),
        ([0, 0, 0], [4, 4], r"padding_info is \[0, 0, 0\]"),
        ([0, 0, 0, 0.5], [4, 4], "padding_info"),
        (None, [4, 4], "padding_info is None"),
        ([0, 0, 0, 0], [0, 4], r"original_size is \[0, 4\]"),
        ([0, 0, 0, 0], [4], r"original_size is \[4\]"),
        ([0, 0, 0, 0], [4, 10**9], "original_size"),
        ([0, 0, 0, 0], "ab", "original_size is 'ab'"),
    ],
)
def test_restoring_refuses_numbers_that_do_not_fit(padding, size, said):
    with pytest.raises(ValueError, match=said):
        restore_from_padding(tiny.picture(12, 12), padding, size)


def test_restoring_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match=r"img has shape \(3,\)"):
        restore_from_padding(np.zeros(3, np.uint8), [0, 0, 0, 0], [1, 1])
