"""EXIF orientations: turns stored pixels to what is displayed, and masks the other way."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

#: By orientation, what turns a displayed picture to the stored one: transpose first, then flip.
_STORED: Final[dict[int, tuple[bool, bool, bool]]] = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def as_stored(shown: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """A displayed picture, H×W or H×W×C, as a file of this orientation stores it."""
    transposed, upside_down, mirrored = _STORED[orientation]
    array = shown.swapaxes(0, 1) if transposed else shown
    if upside_down:
        array = array[::-1]
    return array[:, ::-1] if mirrored else array


def turned_upright(stored: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """The inverse: a stored picture as it is displayed."""
    transposed, upside_down, mirrored = _STORED[orientation]
    array = stored[::-1] if upside_down else stored
    array = array[:, ::-1] if mirrored else array
    return np.ascontiguousarray(array.swapaxes(0, 1) if transposed else array)
