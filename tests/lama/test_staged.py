"""Pictures that go through a device give what they give on the host."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lama import staged
from lama.engine.folding import fold
from lama.engine.network import Network
from lama.engine.precision import Precision
from lama.engine.replay import Recording
from lama.inference import batch_inference, engine_of
from lama.inference import prepare as prepare_graphs
from lama.padding import without_padding
from lama.staged import StagedInference
from tests.lama import tiny
from tests.lama.emulated import KINDS, as_on_a_gpu, needs_compiler
from tests.lama.late_device import LateDevice
from tests.lama.test_half_precision import overflowing_model

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

PADDING, SIZES = (4, 3, 2, 1), [(42, 60), (42, 60), (77, 111)]


def finished(picture: np.ndarray, padding, size) -> np.ndarray:
    return cv2.cvtColor(without_padding(picture, padding, size), cv2.COLOR_RGB2BGR)


def batch(count: int, first: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    pictures = [tiny.picture(48, 64, seed=first + i) for i in range(count)]
    return pictures, [tiny.box_mask(48, 64)] * count


def through(inference: StagedInference, pictures, masks, sizes=SIZES) -> list:
    """Read into the inference's own memory, staged, and started: downloads."""
    there = []
    for picture, mask, size in zip(pictures, masks, sizes, strict=True):
        arrays = inference.place(picture.shape), inference.place(mask.shape)
        for array, content in zip(arrays, (picture, mask), strict=True):
            array[...] = content
        there.append(inference.stage(*arrays, PADDING, size))
    return inference.fill(there)


def expected(model, pictures, masks, sizes=SIZES) -> list[np.ndarray]:
    on_host = batch_inference(pictures, masks, model, {}, "cpu", False)
    return [finished(one, PADDING, size) for one, size in zip(on_host, sizes, strict=True)]


def compare(model, pictures, masks, results, most=1, sizes=SIZES) -> None:
    wanted = expected(model, pictures, masks, sizes)
    for mask, result, one, size in zip(masks, results, wanted, sizes, strict=True):
        assert result.shape == one.shape
        assert np.abs(result.astype(int) - one).max() <= most
        if size == SIZES[0]:  # nothing is resized
            outside = without_padding(mask, PADDING, size) == 0
            assert np.array_equal(result[outside], one[outside])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recorded", [False, True])
def test_batches_in_flight_at_once_give_what_the_host_gives(
    recorded: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.tiny_model()
    engine = as_on_a_gpu(model, kind, monkeypatch)
    if recorded:
        engine.prepare(3, 48, 64)
    inference = StagedInference(model, "cpu", False, 0, 3, 48 * 64, LateDevice())
    batches = [batch(3, first) for first in (0, 10, 20)]
    # All are computed before anything of them arrives: the last one's places must be its own.
    downloads = [through(inference, *one) for one in batches]
    for (pictures, masks), started in zip(batches, downloads, strict=True):
        compare(model, pictures, masks, [one.result() for one in started])


def test_only_pictures_that_overflow_are_computed_again(monkeypatch) -> None:
    monkeypatch.setattr(
        staged, "decide", lambda device, use_fp16: Precision(torch.float16, "a test")
    )
    model = overflowing_model()
    inference = StagedInference(model, "cpu", True, 0, 3, 48 * 64, LateDevice())
    black, bright = np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 255, np.uint8)
    pictures, masks = [black, bright, black], [tiny.box_mask(48, 64)] * 3
    sizes = [SIZES[0]] * 3
    results = [one.result() for one in through(inference, pictures, masks, sizes)]
    assert engine_of(model, "cpu", torch.float16).half_fallbacks == 1
    compare(model, pictures, masks, results, most=2, sizes=sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_again_replaces_what_was_wrong_in_its_place(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = tiny.tiny_model()
    engine = as_on_a_gpu(model, kind, monkeypatch)
    paint = engine.network.paint

    def overflowing(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        filled, finite = paint(pixels)
        filled[1], finite[1] = 77, False
        return filled, finite

    monkeypatch.setattr(engine.network, "paint", overflowing)
    monkeypatch.setattr(engine, "_dtype", torch.bfloat16)
    engine._exact = Network(fold(model.generator), torch.device("cpu"), torch.float32)
    inference = StagedInference(model, "cpu", False, 0, 3, 48 * 64, LateDevice())
    batches = [batch(3, first) for first in (0, 10)]
    downloads = [through(inference, *one) for one in batches]
    for (pictures, masks), started in zip(batches, downloads, strict=True):
        compare(tiny.tiny_model(), pictures, masks, [one.result() for one in started])
    assert engine.half_fallbacks == 2


def test_a_batch_in_half_precision_is_judged_as_such_though_the_engine_has_given_it_up(
    monkeypatch,
) -> None:
    monkeypatch.setattr(
        staged, "decide", lambda device, use_fp16: Precision(torch.float16, "a test")
    )
    model = overflowing_model()
    inference = StagedInference(model, "cpu", True, 0, 1, 48 * 64, LateDevice())
    pictures, masks = [np.full((48, 64, 3), 255, np.uint8)], [tiny.box_mask(48, 64)]
    sizes = SIZES[:1]
    launched = [through(inference, pictures, masks, sizes)[0] for _ in range(5)]
    for picture in launched:
        compare(model, pictures, masks, [picture.result()], sizes=sizes)
    assert engine_of(model, "cpu", torch.float16).half_fallbacks == 5
    (after,) = through(inference, pictures, masks, sizes)
    compare(model, pictures, masks, [after.result()], sizes=sizes)
    assert engine_of(model, "cpu", torch.float16).half_fallbacks == 5


def test_a_batch_is_launched_before_the_one_before_has_arrived() -> None:
    model, device = tiny.tiny_model(), LateDevice()
    inference = StagedInference(model, "cpu", False, 0, 3, 48 * 64, device)
    batches = [batch(3, first) for first in (0, 10)]
    arriving = [through(inference, *pictures) for pictures in batches]
    assert "host waits for down" not in device.log
    for (pictures, masks), started in zip(batches, arriving, strict=True):
        compare(model, pictures, masks, [picture.result() for picture in started])


class Calls(TorchDispatchMode):
    """Counts torch's operations, except for those that only look at memory in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if not (operation.is_view or operation is torch.ops.aten.lift_fresh.default):
            self.counts[str(operation)] += 1
        return operation(*arguments, **(options or {}))


class Idle(LateDevice):
    """Does nothing of its own, so that it makes no calls."""

    def copy(self, target, source, stream) -> None:
        self.log.append(f"{self.name(stream)} copies")

    def wait(self, stream, mark) -> None:
        self.log.append(f"{self.name(stream)} waits")


@needs_compiler
@pytest.mark.parametrize("size", [(42, 60), (77, 111)], ids=["cut", "enlarged"])
def test_a_recorded_batch_is_given_a_table_and_memory_for_its_results_only(
    monkeypatch: pytest.MonkeyPatch, size
) -> None:
    model, device = tiny.tiny_model(), Idle()
    engine = as_on_a_gpu(model, "emulated", monkeypatch)
    engine._painter._paints[0]._record = lambda function, given: Recording(
        given, function(given), lambda: None
    )
    engine.prepare(4, 48, 64)
    inference = StagedInference(model, "cpu", False, 0, 4, 48 * 64, device)
    there = [inference.stage(*one, PADDING, size) for one in zip(*batch(4), strict=True)]
    device.log.clear()
    with Calls() as calls:
        inference.fill(there)
    assert calls.counts == {"aten.empty.memory_format": 1, "aten.copy_.default": 1}
    assert len(device.log) == 1 + 4 + 2 + 5 + 1  # arrival, memory, order, copies, mark


def test_pictures_of_two_sizes_come_back_in_their_order() -> None:
    model = tiny.tiny_model()
    inference = StagedInference(model, "cpu", False, 0, 4, 48 * 64, LateDevice())
    pictures = [tiny.picture(*size) for size in ((48, 64), (32, 32), (48, 64))]
    there = [
        inference.stage(one, tiny.box_mask(*one.shape[:2]), (0, 0, 0, 0), one.shape[:2])
        for one in pictures
    ]
    assert [one.result().shape for one in inference.fill(there)] == [one.shape for one in pictures]


def test_weights_that_give_nothing_finite_are_an_error() -> None:
    model = tiny.tiny_model()
    model.generator.model[1].ffc.convl2l.weight.fill_(torch.nan)
    inference = StagedInference(model, "cpu", False, 0, 1, 48 * 64, LateDevice())
    (picture,) = through(inference, *batch(1), sizes=SIZES[:1])
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="use other weights"):
            picture.result()


def test_what_the_device_is_not_made_for_takes_the_way_of_the_host(monkeypatch) -> None:
    model = tiny.tiny_model()
    inference = StagedInference(model, "cpu", False, 127, 1, 48 * 64, LateDevice())
    picture, mask = tiny.picture(48, 64), tiny.box_mask(48, 64)
    assert inference.stage(picture, mask, PADDING, (48, 64)) is not None
    assert inference.stage(picture, np.full_like(mask, 127), PADDING, (48, 64)) is None
    assert inference.stage(picture[:44], mask[:44], PADDING, (44, 64)) is None
    assert inference.stage(picture, mask, PADDING, (staged.MOST_RESTORED + 1, 1)) is None

    def no_memory(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inference._transfers, "upload", no_memory)
    assert inference.stage(picture, mask, PADDING, (48, 64)) is None


@needs_cuda
@pytest.mark.parametrize("use_fp16", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_gpu_gives_what_the_host_gives(use_fp16: bool, recorded: bool, caplog) -> None:
    here, there = tiny.tiny_model(), tiny.tiny_model().cuda()
    if recorded:
        prepare_graphs(there, "cuda", use_fp16, [(3, 48, 64), (2, 48, 64)])
        assert "no CUDA graph" not in caplog.text
    inference = StagedInference(there, "cuda", use_fp16, 0, 3, 48 * 64)
    batches = [batch(3, first) for first in range(0, 60, 10)]
    downloads = [through(inference, *one) for one in batches]
    for (pictures, masks), started in zip(batches, downloads, strict=True):
        compare(here, pictures, masks, [one.result() for one in started], most=2 + use_fp16)
    smaller = batch(2, 100)
    results = [one.result() for one in through(inference, *smaller, sizes=SIZES[:2])]
    compare(here, *smaller, results, most=2 + use_fp16, sizes=SIZES[:2])


@needs_cuda
def test_what_a_gpu_holds_does_not_grow_with_the_batches() -> None:
    model = tiny.tiny_model().cuda()
    inference = StagedInference(model, "cuda", True, 0, 3, 48 * 64)
    held = []
    for first in range(0, 300, 10):
        for one in through(inference, *batch(3, first)):
            one.result()
        held.append(torch.cuda.memory_reserved())
    assert held[-1] == held[9]
