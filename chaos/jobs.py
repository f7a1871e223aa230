"""The jobs of a run. Job number `n` is the same in every process, so that each can check it.

Most jobs are good ones. The others test what a promise says about them (see `Case`).
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from harness import wire
from harness.fills import POISON, fill_mean

Picture = npt.NDArray[np.uint8]

QUEUES: Final = (wire.LONG, wire.SHORT)


class Case(StrEnum):
    """What is special about a job."""

    GOOD = "good"
    AGAIN = "again"  # the request is sent twice, with another picture the second time
    TWICE = "twice"  # the very same message is sent twice
    LATE = "late"  # the segments come after the message
    POISON = "poison"  # kills every worker that works on it
    NO_JSON = "no json"
    NO_SEGMENT = "no segment"
    BAD_PADDING = "bad padding"
    EXPIRED = "expired"  # before it is sent
    HASTY = "hasty"  # expires soon after it is sent


#: Jobs that can have no result, and their reason on the dead-letter list.
HOPELESS: Final = {
    Case.POISON: "crashed",
    Case.NO_JSON: "bad_json",
    Case.NO_SEGMENT: "segment_missing",
    Case.BAD_PADDING: "bad_padding",
    Case.EXPIRED: "expired",
}

#: How many messages there are of a request, where it is not one.
COPIES: Final = {Case.AGAIN: 2, Case.TWICE: 2}

#: Out of 10,000 jobs; the rest are good. A poisonous one costs seconds, as it kills in a row.
SHARE: Final = {
    Case.AGAIN: 200,
    Case.TWICE: 100,
    Case.LATE: 300,
    Case.POISON: 6,
    Case.NO_JSON: 100,
    Case.NO_SEGMENT: 60,
    Case.BAD_PADDING: 100,
    Case.EXPIRED: 50,
    Case.HASTY: 70,
}


#: How soon a hasty job expires, in seconds.
HASTE_S: Final = (0.05, 0.5, 3.0)

#: How late the segments of a job come that come late, in seconds: after one to four attempts.
LATE_S: Final = (0.1, 0.3, 0.8, 1.6)


@dataclass(frozen=True, slots=True)
class Jobs:
    """All jobs of a run. `tag` is part of the names of all its segments."""

    tag: str
    seed: int

    def case(self, number: int) -> Case:
        """What is special about job `number`."""
        drawn = self._rng(number).integers(10_000)
        for case, share in SHARE.items():
            if drawn < share:
                return case
            drawn -= share
        return Case.GOOD

    def late_s(self, number: int) -> float:
        """How long after the message of a late job its segments come."""
        return LATE_S[number % len(LATE_S)]

    def queue(self, number: int) -> str:
        """Where the job is sent."""
        return QUEUES[number % 2]

    def request(self, number: int) -> str:
        """The job's request id."""
        return f"{self.tag}{number}"

    def number(self, request: str) -> int:
        """The job of a request."""
        return int(request.removeprefix(self.tag))

    def find(self, text: str) -> tuple[int, int] | None:
        """Number and edition of the job whose message this is; None if it is none of these."""
        if (found := re.search(rf"{self.tag}(\d+)", text)) is None:
            return None
        edition = re.search(rf"{self.tag}\d+_(\d)", text)
        return int(found[1]), int(edition[1]) if edition else 0

    def names(self, number: int, edition: int = 0) -> tuple[str, str]:
        """The segments of picture and mask; `edition` is 1 in the second message of a request."""
        return f"img_shm_{self.tag}{number}_{edition}", f"mask_shm_{self.tag}{number}_{edition}"

    def payload(self, number: int, edition: int = 0) -> bytes:
        """The message. That of a hasty job has the present time in it."""
        case = self.case(number)
        if case is Case.NO_JSON:
            return f"{self.request(number)} is no JSON".encode()
        image, mask, padding = self._pixels(number, edition)
        top, right, bottom, left = padding
        height, width = mask.shape
        names = self.names(number, edition)
        message = wire.job_message(
            self.request(number),
            wire.shm_info(names[0], image.shape),
            wire.shm_info(names[1], mask.shape),
            "short" if number % 2 else "long",
            image_id=POISON if case is Case.POISON else f"{number}.jpg",
            original_size=[height - top - bottom, width - left - right],
            padding_info=[height, 0, 0, 0] if case is Case.BAD_PADDING else padding,
        )
        if case is Case.EXPIRED:
            message["expires_at"] = 1 + number
        elif case is Case.HASTY:
            message["expires_at"] = time.time() + HASTE_S[number % len(HASTE_S)]
        return wire.encode(message)

    def put(self, number: int, edition: int = 0) -> None:
        """Write the job's segments, as far as it has any."""
        case = self.case(number)
        if case is Case.NO_JSON:
            return
        image, mask, _ = self._pixels(number, edition)
        for name, array in zip(self.names(number, edition), (image, mask), strict=True):
            if case is not Case.NO_SEGMENT:
                wire.write_segment(name, array)

    def expected(self, number: int, edition: int = 0) -> Picture:
        """The result: BGR, of the original size."""
        image, mask, (top, right, bottom, left) = self._pixels(number, edition)
        height, width = mask.shape
        filled = fill_mean(image, mask)[top : height - bottom, left : width - right]
        return filled[..., ::-1]

    def segments(self) -> set[str]:
        """All segments of the run that exist, inputs and results."""
        return {path.name for path in wire.DEV_SHM.iterdir() if self.tag in path.name}

    def remove(self, number: int) -> int:
        """Unlink the segments of a job that its sender died before sending; their number."""
        removed = 0
        for edition in (0, 1):
            for name in self.names(number, edition):
                with contextlib.suppress(FileNotFoundError):
                    (wire.DEV_SHM / name).unlink()
                    removed += 1
        return removed

    def _rng(self, number: int, edition: int = 0) -> np.random.Generator:
        return np.random.default_rng((self.seed, number, edition))

    def _pixels(
        self, number: int, edition: int
    ) -> tuple[Picture, Picture, tuple[int, int, int, int]]:
        """RGB picture, mask, and padding: top, right, bottom, left."""
        rng = self._rng(number, edition)
        height, width = (int(side) for side in rng.integers(16, 160, 2))
        top, right, bottom, left = (int(side) for side in rng.integers(0, 8, 4))
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        mask = np.zeros((height, width), np.uint8)
        rows, columns = rng.integers(0, height), rng.integers(0, width)
        mask[rows : rows + 20, columns : columns + 30] = 255
        return image, mask, (top, right, bottom, left)
