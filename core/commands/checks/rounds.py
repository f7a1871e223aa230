"""All checks in order; the fast ones come first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from core.commands.checks import environment, model, server, shared_memory
from core.commands.checks.finding import Finding, problem
from core.config import Settings

Check = Callable[[Settings], Iterator[Finding]]

CHECKS: Final[dict[str, Check]] = {
    "settings": environment.check,
    "shm": shared_memory.check,
    "redis": server.check,
    "model": model.check,
}


def examine(settings: Settings, names: list[str]) -> Iterator[Finding]:
    """Run these checks; yields each finding at once."""
    for name, check in CHECKS.items():
        if name in names:
            try:
                yield from check(settings)
            except Exception as error:
                yield problem(
                    name,
                    f"the check itself failed: {type(error).__name__}: {error}",
                    "this is a bug of the worker: please report it",
                )
