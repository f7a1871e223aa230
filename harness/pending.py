"""Pictures on their way from the device of a network that stands in for LaMa."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.pixels.handover import Filled, Loaded, Picture, Restored, is_pending
from lama.padding import without_padding


class StubPending:
    """A picture on its way."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def result(self) -> Picture:
        return self._picture


def pending(loaded: Loaded, filled: Picture) -> StubPending:
    """A filled picture, H×W×3 RGB, on its way: without padding, BGR."""
    content = without_padding(filled, loaded.job.padding, loaded.job.original_size)
    return StubPending(np.ascontiguousarray(content[..., ::-1]))


def arrived(pictures: Sequence[Filled]) -> list[Filled]:
    """The pictures, those that were on their way included."""
    return [Restored(picture.result()) if is_pending(picture) else picture for picture in pictures]
