"""The plain way to do what the worker does: one job after another, everything in sequence.

It loses the job in hand when it dies, and knows no retries, no limits and no turns; it reads,
restores and writes pictures by the same functions as the worker, so that the loop is the
difference.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
from typing import Any

import numpy as np
import redis

from core import keys
from core.claims import Claim
from core.config import Settings, load_settings
from core.contract import Segment
from core.keys import Kind
from core.pixels import shm
from core.pixels.stages import Finisher, Loader
from harness.networks import load_network


def consume(settings: Settings) -> None:
    """Serve both queues for ever."""
    load, infer = Loader(settings), load_network(settings)
    finish = Finisher(settings.mask_threshold)
    client: Any = redis.Redis.from_url(settings.redis_url, protocol=2)
    kinds = {settings.queue(kind): kind for kind in Kind}
    for number in itertools.count():
        popped = client.blpop(list(kinds), timeout=1)
        if popped is None:
            continue
        queue, payload = popped
        loaded = load(Claim(kinds[queue.decode()], payload))
        (picture,) = infer([loaded])
        if isinstance(picture, Exception):
            raise picture
        assert isinstance(picture, np.ndarray), "nothing is staged here"
        result = finish(loaded, picture)
        name = f"{settings.shm_name_prefix}{os.getpid()}_{number}"
        shm.write(name, result, settings.shm_file_mode)
        fields = {
            "image_id": loaded.job.image_id,
            "inpaint_shm_info": Segment(name, result.shape, result.dtype).to_json(),
            "is_long": json.dumps(loaded.job.is_long),
        }
        client.hset(keys.result(loaded.job.request_id), mapping=fields)
        shm.unlink_all([loaded.job.image.name, loaded.job.mask.name], settings.uids)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        consume(load_settings())
