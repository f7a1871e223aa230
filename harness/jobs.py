"""Small jobs that tests send to workers with a stub network, and what Redis says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from harness.redis_server import RedisClient
from harness.wire import DEV_SHM, Json, Kind, Pipeline, page

#: The canvas and the size of a small page: it is padded, and not shrunk.
CANVAS: Final = (64, 96)
SIZE: Final = (60, 90)


def make_message(pipeline: Pipeline, kind: Kind = "long", seed: int = 1, **options: Any) -> Json:
    """The message of a small page, whose segments are in place; options as for the pipeline's."""
    return pipeline.message(*page(*SIZE, seed), kind, canvas=CANVAS, **options)


def send(pipeline: Pipeline, kind: Kind = "long", seed: int = 1, **options: Any) -> str:
    """Put a small page on a queue; its request id."""
    return pipeline.submit(*page(*SIZE, seed), kind, canvas=CANVAS, **options)


def hide(message: Json, field: str = "preprocessed_mask_shm_info") -> Callable[[], object]:
    """Take a segment of a message away; what is returned puts it back."""
    path = DEV_SHM / message[field]["shm_name"]
    hidden = path.with_name(f"{path.name}.hidden")
    path.rename(hidden)
    return lambda: hidden.rename(path)


def processing(client: RedisClient) -> int:
    """The number of jobs that are in the processing lists of all workers."""
    return sum(client.llen(key) for key in client.scan_iter("inpainting:processing:*"))


def dead_entries(client: RedisClient) -> list[Json]:
    """The dead-letter list, the oldest entry first."""
    return [json.loads(entry) for entry in client.lrange("inpainting:dead", 0, -1)]
