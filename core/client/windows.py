"""Pictures of any size at full size: in one job or, if that is too much, in windows around holes.

A worker with INPAINT_REGION=full computes every pixel that it is sent, and a job of several
megapixels may take longer than its INFERENCE_TIMEOUT_S on a CPU.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from core.client.client import Client, suitable_kind
from core.keys import Kind
from core.pixels.arrays import Picture
from lama.regions import inpaint

#: The most pixels of a picture that is sent whole. A window has fewer.
MOST_WHOLE: Final = 4 << 20


def most_whole(max_image_pixels: int) -> int:
    """The most pixels of a picture that is sent whole to a worker with this MAX_IMAGE_PIXELS."""
    return min(MOST_WHOLE, max_image_pixels)


@dataclass(slots=True)
class Filler:
    """Fills BGR pictures (H×W×3, any size) where their mask (H×W) is above 0, by jobs of a client.

    `request_ids` has the requests so far, `kind` their queue: the one whose canvas suits the
    picture if it is None. `timeout_s` limits the wait for each result; a wait ends early if
    `given_up` is set.
    """

    client: Client
    image_id: str
    timeout_s: float
    kind: Kind | None = None
    most_whole: int = MOST_WHOLE
    given_up: threading.Event | None = None
    request_ids: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __call__(self, image: Picture, mask: Picture) -> Picture:
        """The filled picture. Raises SubmitError.

        A hole in a ground of one plane of colour needs no job if the picture is not sent whole.
        """
        began = time.monotonic()
        whole = mask.size <= self.most_whole
        kind = self.kind or suitable_kind(*mask.shape[:2])

        def fill(images: Sequence[Picture], masks: Sequence[Picture]) -> list[Picture]:
            submissions = [
                self.client.submit(*pair, kind, self.image_id, full_size=True)
                for pair in zip(images, masks, strict=True)
            ]
            self.request_ids += [submission.request_id for submission in submissions]
            return [self.client.wait(one, self.timeout_s, self.given_up) for one in submissions]

        (filled,) = inpaint(fill, [image], [mask], "full" if whole else "mask")
        self.seconds += time.monotonic() - began
        return np.asarray(filled, np.uint8)
