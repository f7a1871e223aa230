"""Array types for pictures and holes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: uint8, H×W×3, or H×W for a mask in grey.
Picture = npt.NDArray[np.uint8]

#: bool, H×W: True where there is something to fill.
Hole = npt.NDArray[np.bool_]
