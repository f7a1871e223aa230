"""What is done about a batch that the network fails at: less at a time, and clear words."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from core.contract import Job
from core.errors import DeviceFault, TransientFailure
from core.pixels.handover import Picture
from core.telemetry import log_extra

log = logging.getLogger(__name__)

#: What torch says when an allocation fails, on a GPU and on a CPU; the size that it asked for.
_TRIED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMG]iB)", re.IGNORECASE)
_IN_USE = re.compile(r"([\d.]+) ([KMG]iB) is allocated by PyTorch")
#: What CUDA itself says, without torch's allocator (kernels, graphs, pinned memory), and cuBLAS,
#: cuFFT and cuDNN.
_NO_MEMORY = re.compile(r"CUDA error: out of memory|ALLOC(ATION)?_FAILED")
_MIB: Final = {"bytes": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}


class WithPicture(Protocol):
    """As much of a loaded job as is needed here; `image` is H×W×3."""

    @property
    def job(self) -> Job: ...
    @property
    def image(self) -> Picture: ...


Item = TypeVar("Item")
Result = TypeVar("Result")
Failure = TypeVar("Failure")
Loaded = TypeVar("Loaded", bound=WithPicture)


def halved(
    infer: Callable[[Sequence[Item]], Sequence[Result]],
    batch: Sequence[Item],
    failure: Callable[[Item, Exception], Failure],
    check_device: Callable[[], None] = lambda: None,
    note: Callable[[Sequence[Item], Exception], None] = lambda batch, error: None,
) -> list[Result | Failure]:
    """The results of a batch, which is halved when it fails until what fails is one item.

    `failure` makes of that one and its error what stands for the result; `note` is told of what is
    halved, and why. Neither may keep the error. After either `check_device` gives memory back and
    raises DeviceFault if nothing can be computed any more: then the items are not to blame.
    """
    try:
        return list(infer(batch))
    except DeviceFault:
        raise
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


def halving(
    infer: Callable[[Sequence[Loaded]], Sequence[Result]],
    batch: Sequence[Loaded],
    check_device: Callable[[], None] = lambda: None,
) -> list[Result | TransientFailure]:
    """The same for jobs; the log has their requests."""
    return halved(infer, batch, _failure, check_device, _log_halved)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is Python's, or torch's for a CPU or a GPU, that there is no memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
        or _NO_MEMORY.search(str(error)) is not None
    )


def does_not_fit(image: Picture, error: Exception) -> str:
    """That there was no memory for a picture (H×W×3), with how much it needs, for people."""
    height, width = image.shape[:2]
    said = re.split(r"\. (?!\d)|\n", str(error) or "no memory")[0]
    return f"a picture of {height}×{width} pixels does not fit into memory{_needed(error)}: {said}"


def _failure(loaded: WithPicture, error: Exception) -> TransientFailure:
    if is_out_of_memory(error):
        return TransientFailure("out_of_memory", does_not_fit(loaded.image, error))
    request_id = loaded.job.request_id
    extra = log_extra(request_id)
    log.error("inference failed for request %s", request_id, exc_info=error, extra=extra)
    return TransientFailure("inference_failed", f"the network failed: {error}")


def _log_halved(batch: Sequence[WithPicture], error: Exception) -> None:
    requests = [one.job.request_id for one in batch]
    # Its text only: a handler may keep what it is given.
    log.warning(
        "inference failed for a batch of %d (%s): halved: %s",
        len(batch), str(error), ", ".join(requests), extra=log_extra(*requests),
    )  # fmt: skip


def _needed(error: Exception) -> str:
    """What the failed allocation and those before it come to, as far as the error says."""
    sizes = [pattern.search(str(error)) for pattern in (_TRIED, _IN_USE)]
    total = sum(float(size[1]) * _MIB[size[2]] for size in sizes if size)
    return f", it needs at least {total:.0f} MiB" if total else ""
