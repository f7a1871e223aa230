"""The stub worker, whose claiming loop comes to a stop while the file STUB_STALL exists.

Such a loop counts as dead after STUB_STALE_S seconds.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from core.batches import BatchSource
from core.config import load_settings
from core.service import serve
from core.telemetry import configure_logging, record
from tests.stub.worker import StubNetwork

STALL = Path(os.environ["STUB_STALL"])
fill = BatchSource._fill


async def stalling(self: BatchSource) -> Any:
    while STALL.exists():  # noqa: ASYNC240 - a look costs microseconds
        await asyncio.sleep(0.05)
    return await fill(self)


if __name__ == "__main__":
    record.STALE_S = float(os.environ["STUB_STALE_S"])  # type: ignore[misc]
    BatchSource._fill = stalling  # type: ignore[method-assign]
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    serve(settings, StubNetwork)
