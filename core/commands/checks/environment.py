"""Settings: variables that look like misspelt settings, and a lossy delivery mode."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Final

from core.commands.checks.finding import Finding, ok, warning
from core.config import Delivery, Settings
from core.config.environment import set_variables

#: Similarity, from 0 to 1, from which a variable's name counts as a misspelt setting.
CLOSE: Final = 0.85


def check(settings: Settings) -> Iterator[Finding]:
    """Check the settings, which are valid by now."""
    known = [name.upper() for name in Settings.model_fields]
    given = {name.upper() for name in set_variables()}
    from_environment = [name for name in known if name in given]
    yield ok(
        "settings", f"all are valid; from the environment: {', '.join(from_environment) or 'none'}"
    )
    for name in sorted(set(os.environ) - set(known)):
        close = difflib.get_close_matches(name.upper(), known, 1, CLOSE)
        if close:
            yield warning(
                "settings", f"{name} is no setting and has no effect", f"is {close[0]} meant?"
            )
    if settings.delivery is Delivery.AT_MOST_ONCE:
        yield warning(
            "settings",
            "DELIVERY=at_most_once: a crash loses what is computed and read ahead",
            "DELIVERY=at_least_once loses nothing, and needs Redis 6.2",
        )
