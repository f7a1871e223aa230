"""The limits of a refinement's cost, and the holes that it is for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits for one picture. Raises ValueError for numbers that make no sense.

    Time is at most that of `iterations` + 2 passes through the rear of the network, most of them
    forward and backward, over `pixels` pixels; memory is that of one window, which is not larger.
    """

    #: Steps of the optimiser at each scale but the smallest, as in the paper.
    iterations: int = 15
    #: Adam's learning rate, as in the paper.
    learning_rate: float = 0.002
    #: The shorter side of the smallest scale in pixels, within a factor of √2.
    smallest_side: int = 512
    #: The diameter in pixels of the circle that must fit into a large hole.
    least_extent: int = 96
    #: The pixels of all windows of a picture, over all of its large holes and scales.
    pixels: int = 2 * 1024 * 1024
    #: Residual blocks behind the optimised features; all blocks if the network has fewer. With all
    #: 9 of the included network it took 2.5 times as long, and the fills were not closer.
    rear_blocks: int = 3

    def __post_init__(self) -> None:
        least = {"iterations": 1, "smallest_side": 32, "least_extent": 16, "pixels": 0}
        for name, lowest in {**least, "rear_blocks": 0}.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}: at least {lowest} is needed")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}: between 0 and 1 is needed")
