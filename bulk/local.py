"""Runs the stages in this process: threads decode and encode while the network computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Final

from bulk.stages import Decoder, Encoder, Filled, Filler, Item
from bulk.tasks import Task
from core.pictures.errors import PictureError, Remark

#: Called once for each picture, with its name, the error if it was not done, and the remarks.
Note = Callable[[str, PictureError | None, Sequence[Remark]], None]

#: Number of pictures that are decoded ahead; threads that decode, and as many that encode.
AHEAD: Final = 16
THREADS: Final = 2

#: Largest number of pixels in memory, counted from before a picture is decoded until its result is
#: written. A larger picture is processed alone. A pixel takes about 12 bytes.
MOST_PIXELS: Final = 32 * 1024 * 1024


class Budget:
    """Limits the pixels in memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._changed = threading.Condition()
        self._closed = False

    def take(self, pixels: int) -> None:
        """Wait until there is room; raises PictureError if the run ends first."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self._used or self._used + pixels <= self._most
            )
            if self._closed:
                raise PictureError("stopped", "the run was stopped")
            self._used += pixels

    def give_back(self, pixels: int) -> None:
        with self._changed:
            self._used -= pixels
            self._changed.notify_all()

    def close(self) -> None:
        """End all waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass(slots=True)
class _Decoded:
    """The result of the first stage for a task, and the pixels that it uses."""

    task: Task
    item: Item | None = None
    error: PictureError | None = None
    pixels: int = 0
    remarks: tuple[Remark, ...] = ()


class Line:
    """Runs pictures through the stages; at most AHEAD of them are before the network."""

    def __init__(self, decoder: Decoder, filler: Filler, encoder: Encoder, note: Note) -> None:
        self._decoder, self._filler, self._encoder = decoder, filler, encoder
        self._note = note
        self._budget = Budget(MOST_PIXELS)

    def run(self, tasks: Iterable[Task]) -> None:
        """Do all tasks. The network runs in the calling thread; an exception in it ends the run."""
        coming = iter(tasks)
        readers = ThreadPoolExecutor(THREADS, "decode")
        writers = ThreadPoolExecutor(THREADS, "encode")
        reading: set[Future[_Decoded]] = set()
        writing: set[Future[_Decoded]] = set()
        try:
            while True:
                for task in islice(coming, AHEAD - len(reading)):
                    reading.add(readers.submit(self._decode, task))
                if not reading and not writing:
                    return
                wait(reading | writing, return_when=FIRST_COMPLETED)
                ready = {future for future in reading if future.done()}
                reading -= ready
                for future in [future for future in writing if future.done()]:
                    writing.remove(future)
                    self._report(future.result())
                for decoded, filled in self._fill([future.result() for future in ready]):
                    writing.add(writers.submit(self._encode, decoded, filled))
        finally:
            self._budget.close()
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)
            for future in writing:  # of a run that was interrupted
                if not future.cancelled() and future.exception() is None:
                    self._report(future.result())

    def _decode(self, task: Task) -> _Decoded:
        decoded = _Decoded(task)

        def admit(pixels: int) -> None:
            self._budget.take(pixels)
            decoded.pixels = pixels

        try:
            decoded.item = self._decoder(task, admit)
            decoded.remarks = decoded.item.remarks
        except PictureError as error:
            decoded.error = error
        return decoded

    def _fill(self, batch: list[_Decoded]) -> Iterator[tuple[_Decoded, Filled]]:
        """Fill a batch; yields those that succeed, and notes the errors of the others."""
        usable = [decoded for decoded in batch if decoded.item is not None]
        results = self._filler([decoded.item for decoded in usable if decoded.item is not None])
        for decoded, result in zip(usable, results, strict=True):
            if isinstance(result, PictureError):
                decoded.error = result
            else:
                yield decoded, result
        for decoded in batch:
            if decoded.error is not None:
                self._budget.give_back(decoded.pixels)
                self._report(decoded)

    def _report(self, decoded: _Decoded) -> None:
        self._note(decoded.task.name, decoded.error, decoded.remarks)

    def _encode(self, decoded: _Decoded, filled: Filled) -> _Decoded:
        assert decoded.item is not None
        try:
            self._encoder(decoded.item, filled)
        except PictureError as error:
            decoded.error = error
        finally:
            decoded.item = None
            self._budget.give_back(decoded.pixels)
        return decoded
