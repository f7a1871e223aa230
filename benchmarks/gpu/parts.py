"""The parts, in the order of their importance: what comes last is left out if time is short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.gpu import compiled, cuda_tests, network, pages, workers
from benchmarks.gpu.program import Part
from benchmarks.gpu.scale import Measure, Row, Scale

MEASURES: Final[dict[Part, Measure]] = {
    Part("ceilings", 30): network.ceilings,
    Part("tests", 80, needs_cuda=True): cuda_tests.run,
    Part("choices", 80): network.choices,
    Part("worker", 170): workers.rates,
    Part("precision", 30): network.precision,
    Part("memory", 25, needs_cuda=True): network.memory,
    Part("kernels", 25): network.kernels,
    Part("regions", 45): pages.regions,
    Part("compile", 75, needs_cuda=True): compiled.by_compile,
    Part("export", 60, needs_cuda=True): compiled.by_export,
    Part("refinement", 30): pages.refinement,
    Part("bulk", 45): pages.bulk,
}
PARTS: Final = tuple(MEASURES)


def measure(name: str, scale: Scale) -> Iterator[Row]:
    """The lines of a part, computed in this process."""
    (act,) = [act for part, act in MEASURES.items() if part.name == name]
    return act(scale)
