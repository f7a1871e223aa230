"""Memory is used again, but never while somebody still looks at it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from core.buffers import MOST_UNUSED, Buffers

UINT8 = np.dtype(np.uint8)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float16", "float32", "float64"])
def test_an_array_has_the_shape_and_dtype_that_were_asked_for(dtype: str) -> None:
    array = Buffers().array((3, 5, 2), np.dtype(dtype))
    assert (array.shape, array.dtype) == ((3, 5, 2), np.dtype(dtype))
    assert array.flags.c_contiguous
    assert array.flags.writeable


def test_memory_that_nobody_looks_at_is_used_again() -> None:
    buffers = Buffers()
    array = buffers.array((100, 100, 3), UINT8)
    first = address(array)
    del array
    assert address(buffers.array((150, 200), UINT8)) == first  # other shapes are fine


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array,
        lambda array: array[10:20, ::-1],
        lambda array: array.reshape(-1)[5:].view(np.int8)[3:4],
        lambda array: memoryview(array),
        lambda array: torch.from_numpy(array)[1:],
        lambda array: np.frombuffer(array.data, np.uint8),
    ],
    ids=["itself", "a view", "a view of a view", "a memoryview", "a tensor", "a buffer"],
)
def test_memory_that_somebody_looks_at_is_left_alone(keep) -> None:
    buffers = Buffers()
    array = buffers.array((100, 100), UINT8)
    array[:] = 7
    first = address(array)
    kept = keep(array)
    del array
    others = [buffers.array((100, 100), UINT8) for _ in range(3)]
    assert first not in map(address, others)
    del kept, others


def test_threads_never_get_the_same_memory() -> None:
    buffers = Buffers()

    def use(number: int) -> bool:
        for _ in range(300):
            array = buffers.array((50, 50), UINT8)
            array[:] = number
            if not (array == number).all():
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(4)))


def test_a_block_that_is_much_too_large_is_not_taken() -> None:
    buffers = Buffers()
    large = address(buffers.array((1000, 1000), UINT8))
    assert address(buffers.array((10, 10), UINT8)) != large


def test_unused_memory_has_a_limit() -> None:
    buffers = Buffers()
    arrays = [buffers.array((MOST_UNUSED // 4,), UINT8) for _ in range(10)]
    del arrays
    buffers.array((1,), UINT8)
    assert sum(block.size for block in buffers._blocks) <= MOST_UNUSED + 1
