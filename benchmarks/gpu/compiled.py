"""torch.compile and torch.export with the plain network, compared with the engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from benchmarks import competitors, subjects
from benchmarks.gpu.scale import Row, Scale, seconds
from lama.engine.engine import as_pixels


def by_compile(scale: Scale) -> Iterator[Row]:
    """The engine, the plain network, and that compiled."""
    return _timed(
        ("engine half", "reference autocast", "torch.compile autocast", "torch.compile"), scale
    )


def by_export(scale: Scale) -> Iterator[Row]:
    """The engine, and the exported network compiled ahead of time."""
    return _timed(("engine half", "torch.export"), scale)


def _timed(names: tuple[str, ...], scale: Scale) -> Iterator[Row]:
    """A line for each; one that fails says why, and the next one is tried."""
    model = subjects.model(scale.networks[-1]).to(scale.device)
    images = subjects.pictures(scale.batch, scale.side, scale.side)
    hole = subjects.holes("blocks", *images.shape[:3])
    pixels = as_pixels(images, hole).to(scale.device)
    engine_s = 0.0
    for name in names:
        began = time.perf_counter()
        try:
            example = subjects.masked_tensor(images, hole)
            one = competitors.make(name, model, example, scale.device)
            one.fill_on_device(pixels)
            ready = time.perf_counter() - began
            taken = seconds(partial(one.fill_on_device, pixels), scale)
        except Exception as error:
            text = str(error).strip() or "no reason given"
            yield {"what": name, "skipped": f"{type(error).__name__}: {text.splitlines()[0]}"[:300]}
            continue
        engine_s = engine_s or taken
        yield {
            "network": scale.networks[-1],
            "what": name,
            "ms": taken * 1000,
            "times the engine": taken / engine_s,
            "s until the first": ready,
        }
