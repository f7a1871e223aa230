"""Settings: what is doubtful in the environment and in `.env`, and a lossy delivery mode."""

from __future__ import annotations

from collections.abc import Iterator

from core.commands.checks.finding import Finding, ok, warning
from core.config import Delivery, Settings, doubts
from core.config.environment import set_variables


def check(settings: Settings) -> Iterator[Finding]:
    """Check the settings, which are valid by now."""
    known = [name.upper() for name in Settings.model_fields]
    given = {name.upper() for name in set_variables()}
    from_environment = [name for name in known if name in given]
    yield ok(
        "settings", f"all are valid; from the environment: {', '.join(from_environment) or 'none'}"
    )
    for doubt in doubts():
        yield warning("settings", doubt.message, doubt.remedy)
    if settings.delivery is Delivery.AT_MOST_ONCE:
        yield warning(
            "settings",
            "DELIVERY=at_most_once: a crash loses what is computed and read ahead",
            "DELIVERY=at_least_once loses nothing, and needs Redis 6.2",
        )
