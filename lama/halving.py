"""A batch that fails is halved until each picture that fails is alone, and says why it failed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import numpy as np

#: Torch's text when an allocation fails, on a GPU and on a CPU, with the size asked for.
_TRIED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMG]iB)", re.IGNORECASE)
_IN_USE = re.compile(r"([\d.]+) ([KMG]iB) is allocated by PyTorch")
#: The texts of CUDA itself, without torch's allocator (kernels, graphs, pinned memory), and of
#: cuBLAS, cuFFT and cuDNN.
_NO_MEMORY = re.compile(r"CUDA error: out of memory|ALLOC(ATION)?_FAILED")
_MIB: Final = {"bytes": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}

Item = TypeVar("Item")
Result = TypeVar("Result")
Failure = TypeVar("Failure")


def halved(
    infer: Callable[[Sequence[Item]], Sequence[Result]],
    batch: Sequence[Item],
    failure: Callable[[Item, Exception], Failure],
    check_device: Callable[[], None] = lambda: None,
    note: Callable[[Sequence[Item], Exception], None] = lambda batch, error: None,
) -> list[Result | Failure]:
    """The results of a batch, which is halved when it fails until only one item is left.

    `infer` is a parameter because jobs, pictures of a folder and a stub's jobs are inferred by
    different functions. `failure` turns a single item and its error into what replaces the result;
    `note` is called with each batch that is halved, and the error. Neither may keep the error.
    After either, `check_device` gives memory back, and raises if the device can compute nothing any
    more: then the items are not to blame.
    """
    try:
        return list(infer(batch))
    except Exception as error:
        alone = len(batch) == 1
        if alone:
            failed = failure(batch[0], error)
        else:
            note(batch, error)
    # Only here is the error gone, and with it the memory of all that its frames hold.
    check_device()
    if alone:
        return [failed]
    middle = len(batch) // 2
    return halved(infer, batch[:middle], failure, check_device, note) + halved(
        infer, batch[middle:], failure, check_device, note
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, or of torch for a CPU or a GPU, means that memory ran out."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
        or _NO_MEMORY.search(str(error)) is not None
    )


def explained(image: np.ndarray, error: Exception) -> tuple[str, str]:
    """The reason why a picture (H×W×3) failed, as a code and as a sentence."""
    if not is_out_of_memory(error):
        return "inference_failed", f"the network failed: {error}"
    height, width = image.shape[:2]
    said = re.split(r"\. (?!\d)|\n", str(error) or "no memory")[0]
    return (
        "out_of_memory",
        f"a picture of {width}×{height} pixels does not fit into memory{_needed(error)}: {said}",
    )


def _needed(error: Exception) -> str:
    """The sum of the failed allocation and those before it, as far as the error names them."""
    sizes = [pattern.search(str(error)) for pattern in (_TRIED, _IN_USE)]
    total = sum(float(size[1]) * _MIB[size[2]] for size in sizes if size)
    return f", it needs at least {total:.0f} MiB" if total else ""
