"""The stub worker, one loop or stage of which stands still while the file STUB_STALL exists.

STUB_STALL_AT names it: the claiming loop `claim`, or the stage `load`, `store`, `commit` or
`unlink`. A loop or a stage counts as dead after STUB_STALE_S seconds.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from pathlib import Path
from typing import Any

from core.flow.batches import BatchSource
from core.flow.delivery import Deliverer
from core.pixels import shm
from core.pixels.stages import Loader
from core.telemetry import record
from harness.launch import launch

STALL = Path(os.environ["STUB_STALL"])
AT: dict[str, tuple[Any, str]] = {
    "claim": (BatchSource, "_fill"),
    "load": (Loader, "__call__"),
    "store": (Deliverer, "_store"),
    "commit": (Deliverer, "_commit"),
    "unlink": (shm, "unlink_all"),
}


def stalling(act: Any) -> Any:
    """A function, or a coroutine function, that waits for the file to be gone first."""

    def stalled(*arguments: Any) -> Any:
        while STALL.exists():
            time.sleep(0.05)
        return act(*arguments)

    async def stalled_in_loop(*arguments: Any) -> Any:
        while STALL.exists():  # noqa: ASYNC240 - a look costs microseconds
            await asyncio.sleep(0.05)
        return await act(*arguments)

    return stalled_in_loop if inspect.iscoroutinefunction(act) else stalled


if __name__ == "__main__":
    record.STALE_S = record.STAGE_STALE_S = float(  # type: ignore[misc]
        os.environ["STUB_STALE_S"]
    )
    owner, name = AT[os.environ["STUB_STALL_AT"]]
    setattr(owner, name, stalling(getattr(owner, name)))
    launch()
