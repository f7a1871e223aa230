"""A worker with a device of its own delivers what one without delivers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from core.claims import Claim
from core.config import Settings
from core.contract import Segment
from core.keys import Kind
from core.network import LaMa
from core.pixels import shm
from core.pixels.handover import Loaded, Picture, is_pending
from core.pixels.stages import Finisher, Loader
from harness import ROOT
from harness.jobs import CANVAS
from harness.wire import Pipeline, encode, page
from lama.padding import without_padding
from lama.staged import BLOCKS, FLAG_BLOCKS, StagedInference
from tests.lama.late_device import LateDevice

FULL = [(1, *CANVAS)]


@pytest.fixture(params=["full", "content", "mask"])
def settings(request: pytest.FixtureRequest) -> Settings:
    folder = ROOT / "tests/data/golden/blocks2-ngf16"
    return Settings(
        _env_file=None,
        use_cuda=False,
        use_fp16=False,
        inpaint_region=request.param,
        lama_config_path=folder / "config.yaml",
        lama_checkpoint_path=folder / "models/best.ckpt",
    )


@pytest.fixture
def network(settings: Settings) -> LaMa:
    return LaMa(settings)


def claims(pipeline: Pipeline) -> list[Claim]:
    """A page that fills its canvas, one that doesn't, shrunk ones, without an original and with it,
    and one without a hole."""
    found = []
    for seed, size in enumerate([(64, 96), (50, 80), (100, 130), (100, 130), (60, 90)]):
        image, mask = page(*size, seed)
        if seed == 4:
            mask[:] = 0
        message = pipeline.message(image, mask, "short", canvas=CANVAS, original=seed == 3)
        found.append(Claim(Kind.SHORT, pipeline.push(message, "short")))
    return found


def finished(finish: Finisher, loaded: Sequence[Loaded], filled: Sequence[Any]) -> list[Picture]:
    return [finish(job, picture) for job, picture in zip(loaded, filled, strict=True)]


def test_results_are_within_a_level_and_the_same_outside_the_hole(
    pipeline: Pipeline, network: LaMa, settings: Settings
) -> None:
    finish = Finisher(settings.mask_threshold)
    given = claims(pipeline)
    loaded = [Loader(settings)(claim) for claim in given]
    expected = finished(finish, loaded, network(loaded))

    device = LateDevice()
    network.inpainter.staging = StagedInference(
        network.inpainter.model,
        "cpu",
        False,
        0,
        len(given),
        CANVAS[0] * CANVAS[1],
        device,
        settings.inpaint_region,
    )
    loaded = [Loader(settings, lambda: network.staging)(claim) for claim in given]
    is_copied = settings.inpaint_region != "mask"  # otherwise only windows of it are
    assert [np.may_share_memory(one.image, device._memory.numpy()) for one in loaded] == [
        is_copied
    ] * 5
    assert [one.staged is not None for one in loaded] == [True] * 4 + [False]
    filled = network(loaded)
    assert [is_pending(one) for one in filled] == [True] * 4 + [False]
    results = finished(finish, loaded, network.collect(filled))
    for one, result, wanted in zip(loaded, results, expected, strict=True):
        assert result.shape == wanted.shape
        assert np.abs(result.astype(int) - wanted).max() <= 1
        kept = without_padding(one.mask, one.job.padding, one.job.original_size) == 0
        if one.original is not None:
            assert np.array_equal(result[kept], one.original[kept])
        elif one.job.original_size[0] <= CANVAS[0]:  # nothing is resized
            assert np.array_equal(result[kept], wanted[kept])
    for one in loaded:
        names = [one.job.image.name, one.job.mask.name]
        if one.original is not None:
            assert isinstance(one.job.original, Segment)
            names.append(one.job.original.name)
        shm.unlink_all(names, settings.uids)


@pytest.mark.parametrize("floats", [False, True], ids=["channels", "floats"])
def test_pixels_that_are_converted_when_they_are_read_are_staged_as_well(
    pipeline: Pipeline, network: LaMa, settings: Settings, floats: bool
) -> None:
    image, mask = page(*CANVAS, 1)
    plain = pipeline.message(image, mask, "short", canvas=CANVAS)
    message = pipeline.message(image, mask, "short", canvas=CANVAS)
    if floats:
        rgb = image[..., ::-1].astype(">f4")
        message["preprocessed_img_shm_info"] = pipeline.put_array(rgb)
        message["preprocessed_mask_shm_info"] = pipeline.put_array(mask.astype(">f4"))
    else:
        channels = np.repeat(mask[..., None], 3, axis=2)
        message["preprocessed_mask_shm_info"] = pipeline.put_array(channels)
    network.inpainter.staging = StagedInference(
        network.inpainter.model, "cpu", False, 0, 2, CANVAS[0] * CANVAS[1], LateDevice()
    )
    given = [Claim(Kind.SHORT, encode(one)) for one in (plain, message)]
    loaded = [Loader(settings, lambda: network.staging)(claim) for claim in given]
    assert all(one.staged is not None for one in loaded)
    finish = Finisher(settings.mask_threshold)
    expected, result = finished(finish, loaded, network.collect(network(loaded)))
    assert np.array_equal(result, expected)


def test_a_device_that_cannot_be_made_ready_works_as_well(
    network: LaMa, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nand a long story")

    monkeypatch.setattr("lama.inpainter.prepare", fail)
    with caplog.at_level(logging.WARNING):
        network.inpainter.get_ready(FULL)
    assert network.staging is None
    assert "cpu is not made ready: CUDA error: out of memory" in caplog.text
    assert "long story" not in caplog.text


def test_staging_begins_after_the_first_recording_with_room_for_the_largest_batch(
    network: LaMa, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = []
    monkeypatch.setattr(
        "lama.inpainter.prepare",
        lambda *given: recorded.append((given[-1], network.staging is not None)),
    )
    device = LateDevice()
    monkeypatch.setattr("lama.staged.Cuda", lambda _: device)
    batches = [(count, *CANVAS) for count in (64, 32, 16, 8, 4, 3, 2, 1)]
    network.inpainter.get_ready(batches)
    if network.inpainter.region == "mask":  # windows have any size and number
        assert [what for what, _ in recorded if what] == []
    else:
        assert recorded == [(batches[:1], False), (batches[1:], True)]
    assert isinstance(network.staging, StagedInference)
    assert network.staging.region == network.inpainter.region
    assert device.asked_for == [(BLOCKS * 64 + FLAG_BLOCKS) * 3 * CANVAS[0] * CANVAS[1]]


def test_what_cannot_be_recorded_later_does_not_end_staging(
    network: LaMa, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_later(*given: Any) -> None:
        if given[-1] == batches[1:]:
            raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("lama.inpainter.prepare", fail_later)
    monkeypatch.setattr("lama.staged.Cuda", lambda _: LateDevice())
    batches = [(2, *CANVAS), (1, *CANVAS)]
    with caplog.at_level(logging.WARNING):
        network.inpainter.get_ready(batches)
    assert network.staging is not None
    if network.inpainter.region != "mask":
        assert "cpu is not made ready: CUDA error: out of memory" in caplog.text
