"""The values of settings as people read them: on the status page, in a table, in the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.config.redis_url import without_password
from core.config.settings import PROJECT_ROOT


def shown(name: str, value: Any) -> str:
    """A setting's value as text; `name` is its field in Settings. Passwords are left out."""
    if name == "admin_token":
        return "(set)" if value else "none"
    if value is None:
        return "none"
    if name == "shm_file_mode":
        return f"{value:04o}"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, Path):
        return str(value).removeprefix(f"{PROJECT_ROOT}/")
    return without_password(str(value))
