"""Copies beside the network: nobody reads what isn't there yet, or writes what is still read."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch

from harness.waiting import wait_until
from lama.engine import transfers
from lama.engine.transfers import Cuda, Transfers
from lama.engine.turns import Turns
from tests.lama.late_device import UNWRITTEN, LateDevice

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SHAPE = (4, 4, 3)


def filled(transfers: Transfers, value: int, shape=SHAPE) -> np.ndarray:
    array = transfers.place(shape)
    array[...] = value
    return array


def staged(transfers: Transfers, value: int):
    return transfers.upload(filled(transfers, value), filled(transfers, value, SHAPE[:2]))


def test_what_computes_waits_for_the_upload_and_keeps_its_memory() -> None:
    device = LateDevice()
    moving = Transfers(device, 4, 64)
    one = staged(moving, 7)
    assert set(one.picture.flatten().tolist()) == {UNWRITTEN}  # late, as it may be
    moving.await_arrival([one])
    assert set(one.picture.flatten().tolist()) == set(one.mask.flatten().tolist()) == {7}
    assert device.log == [
        "memory of up", "up copies", "up copies", "up marks",
        "compute waits for up", "used by compute",
    ]  # fmt: skip


def test_the_host_waits_for_the_download_which_waits_for_what_computes() -> None:
    device = LateDevice()
    moving = Transfers(device, 4, 64)
    (download,) = moving.download([torch.full(SHAPE, 5, dtype=torch.uint8)])
    assert set(download._array.flatten().tolist()) == {UNWRITTEN}
    assert set(download.result().flatten().tolist()) == {5}
    assert device.log == [
        "compute marks", "down waits for compute", "down copies", "down marks",
        "host waits for down",
    ]  # fmt: skip


def test_what_computes_waits_once_for_several_uploads_and_the_host_once_for_several_downloads():
    device = LateDevice()
    moving = Transfers(device, 8, 64)
    several = [staged(moving, value) for value in (1, 2, 3)]
    device.log.clear()
    moving.await_arrival([several[2], several[0], several[1]])
    downloads = moving.download([one.picture for one in several])
    for value, one, download in zip((1, 2, 3), several, downloads, strict=True):
        assert set(one.mask.flatten().tolist()) == {value}
        assert set(download.result().flatten().tolist()) == {value}
    assert device.log[:9] == [
        "compute waits for up", *["used by compute"] * 3,
        "compute marks", "down waits for compute", *["down copies"] * 3,
    ]  # fmt: skip
    moving.await_arrival([])


def test_memory_is_not_used_again_before_the_last_copy_from_it_has_ended() -> None:
    moving = Transfers(LateDevice(), 2, 64)
    first = staged(moving, 1)  # whose arrays nobody else keeps
    gc.collect()
    staged(moving, 2)
    moving.await_arrival([first])
    assert set(first.picture.flatten().tolist()) == set(first.mask.flatten().tolist()) == {1}


def test_memory_is_not_used_again_before_the_last_copy_to_it_has_ended() -> None:
    moving = Transfers(LateDevice(), 1, 64)
    moving.download([torch.full(SHAPE, 5, dtype=torch.uint8)])  # given up: nobody waits for it
    gc.collect()
    array = filled(moving, 3)
    moving.download([torch.full(SHAPE, 6, dtype=torch.uint8)])[0].result()
    assert set(array.flatten().tolist()) == {3}


def test_pinned_memory_is_taken_once_and_used_again() -> None:
    device = LateDevice()
    moving = Transfers(device, 4, 64)
    for value in range(20):
        picture = filled(moving, value)
        assert np.may_share_memory(picture, device._memory.numpy())
        one = moving.upload(picture, filled(moving, value, SHAPE[:2]))
        del picture
        moving.await_arrival([one])
    assert device.asked_for == [4 * 64]
    assert len(moving._under_way) == 1  # of those that have ended, only the last is known


def test_a_block_is_taken_as_long_as_any_view_of_it_is_kept() -> None:
    moving = Transfers(LateDevice(), 1, 64)
    view = moving.place((48,)).reshape(4, 12)[1:][:, ::2]
    gc.collect()
    assert not moving._pinned._free
    del view
    gc.collect()
    assert len(moving._pinned._free) == 1


def test_what_does_not_fit_gets_ordinary_memory_which_is_counted_and_logged_once(caplog) -> None:
    moving = Transfers(LateDevice(), 1, 64)
    assert moving.place((65,)).shape == (65,)
    assert len(moving._pinned._free) == 1
    kept = [moving.place(SHAPE) for _ in range(3)]
    assert not np.may_share_memory(kept[0], kept[1])
    assert moving._pinned.missed == 2
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "all 1 blocks of pinned memory are in use" in lines[0]


def test_without_pinned_memory_copies_work_as_well_and_one_line_says_so(
    monkeypatch, caplog
) -> None:
    monkeypatch.setattr(transfers, "_said", threading.Event())
    for _ in range(2):
        moving = Transfers(LateDevice(pinned=False), 4, 64)
        one = staged(moving, 7)
        moving.await_arrival([one])
        assert set(moving.download([one.picture])[0].result().flatten().tolist()) == {7}
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "no pinned memory (CUDA error: out of memory): copies to and from the device are slower"
    ]


def test_turns_go_to_whoever_has_waited_longest() -> None:
    turns, order = Turns(), []

    def wait(name: str) -> None:
        with turns:
            order.append(name)

    threads = []
    with turns:
        for name in "abc":
            threads.append(threading.Thread(target=wait, args=(name,)))
            threads[-1].start()
            wait_until(lambda: len(turns._line) == len(threads) + 1, "it waits")
        order.append("first")
    # Asked for again at once: those who wait come before.
    with turns:
        order.append("again")
    for thread in threads:
        thread.join()
    assert order == ["first", "a", "b", "c", "again"]


@needs_cuda
def test_on_a_gpu_copies_and_results_agree_while_it_computes() -> None:
    device = torch.device("cuda")
    moving = Transfers(Cuda(device), 12, 3 << 20)
    assert len(moving._pinned._free) == 12
    busy = torch.rand(4096, 4096, device=device)
    downloads = []
    for value in range(40):
        picture = filled(moving, value, (1024, 1024, 3))
        one = moving.upload(picture, filled(moving, value, (1024, 1024)))
        del picture
        busy = busy @ busy
        busy /= busy.max()
        moving.await_arrival([one])
        downloads.append((value, moving.download([one.picture + 1])[0]))
    for value, download in downloads:
        result = download.result()
        assert result.min() == result.max() == value + 1
