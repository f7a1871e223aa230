"""Which sizes of batches are prepared, and when."""

from __future__ import annotations

import threading

import pytest

from lama.engine.frequent import MOST, MOST_COUNTED, OFTEN, Frequent, powers_of_two

SIZE = 2, 64, 128, 0


class Prepared:
    """Notes what is prepared; `work` does what was started."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int, int, int]] = []
        self.started: list = []

    def __call__(self, *size: int) -> None:
        self.sizes.append(size)
        if size[0] == 13:
            raise RuntimeError("CUDA error: out of memory\nand a long story")

    def work(self) -> None:
        self.started.pop(0)()


@pytest.fixture
def prepared() -> Prepared:
    return Prepared()


@pytest.fixture
def frequent(prepared: Prepared) -> Frequent:
    return Frequent(prepared, prepared.started.append)


def often(frequent: Frequent, size: tuple[int, int, int, int]) -> None:
    for _ in range(OFTEN):
        frequent.note(size)


def test_a_number_is_a_sum_of_powers_of_two() -> None:
    assert powers_of_two(13) == [8, 4, 1]
    assert all(sum(powers_of_two(count)) == count for count in range(100))


def test_a_size_is_prepared_once_when_it_occurred_often(
    frequent: Frequent, prepared: Prepared
) -> None:
    for _ in range(OFTEN - 1):
        frequent.note(SIZE)
    assert not prepared.started
    often(frequent, SIZE)
    assert prepared.sizes == []  # not by who fills the batch
    prepared.work()
    assert prepared.sizes == [SIZE]
    often(frequent, SIZE)
    assert not prepared.started


def test_sizes_wait_for_each_other_in_one_thread(frequent: Frequent, prepared: Prepared) -> None:
    often(frequent, SIZE)
    often(frequent, (1, 64, 64, 64))
    assert len(prepared.started) == 1
    prepared.work()
    assert prepared.sizes == [SIZE, (1, 64, 64, 64)]
    often(frequent, (3, 64, 64, 0))
    prepared.work()
    assert prepared.sizes[-1] == (3, 64, 64, 0)


def test_what_is_prepared_is_bounded(frequent: Frequent, prepared: Prepared) -> None:
    for side in range(MOST + 5):
        often(frequent, (1, side, 64, 0))
    prepared.work()
    assert len(prepared.sizes) == MOST
    assert not prepared.started


def test_what_is_counted_is_bounded(frequent: Frequent) -> None:
    for side in range(2 * MOST_COUNTED + 1):
        frequent.note((1, side, 64, 0))
    assert len(frequent._seen) == 1


def test_a_size_that_fails_does_not_keep_others(
    frequent: Frequent, prepared: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    often(frequent, (13, 64, 64, 0))
    often(frequent, SIZE)
    prepared.work()
    assert prepared.sizes[-1] == SIZE
    assert "(13, 64, 64, 0) is not prepared: CUDA error: out of memory" in caplog.text
    assert "long story" not in caplog.text


def test_it_happens_in_a_thread_of_its_own() -> None:
    done = threading.Event()
    seen = []

    def prepare(*_: int) -> None:
        seen.append(threading.current_thread().name)
        done.set()

    often(Frequent(prepare), SIZE)
    assert done.wait(10)
    assert seen == ["prepare often"]
