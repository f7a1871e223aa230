"""What a refinement may cost, and what it is made for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of a picture's refinement. Raises ValueError for numbers that make no sense.

    Time is at most that of `iterations` + 2 passes through the rear of the network, most of them
    there and back, over `pixels` pixels; memory that of one window, which is no larger.
    """

    #: Steps of the optimiser at each scale but the smallest; the paper's.
    iterations: int = 15
    #: Adam's; the paper's.
    learning_rate: float = 0.002
    #: Pixels that the shorter side of the smallest scale has, to a factor of √2.
    smallest_side: int = 512
    #: Pixels: a hole is large if a circle of that diameter fits into it.
    least_extent: int = 96
    #: Pixels of all windows of a picture, over all of its large holes and scales.
    pixels: int = 2 * 1024 * 1024
    #: Residual blocks behind the features that are optimised, as far as the network has as many.
    #: With all 9 of the included network it took 2.5 times as long, and the fills were no closer.
    rear_blocks: int = 3

    def __post_init__(self) -> None:
        least = {"iterations": 1, "smallest_side": 32, "least_extent": 16, "pixels": 0}
        for name, lowest in {**least, "rear_blocks": 0}.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}: at least {lowest} is needed")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}: between 0 and 1 is needed")
