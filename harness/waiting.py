"""Waits for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Longest wait for a condition, in seconds; reaching it is a failure.
PATIENCE_S: Final = 30.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as `condition` holds; fail if it does not within PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {PATIENCE_S:g} s: {what}")
        time.sleep(0.005)
