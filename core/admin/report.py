"""What the status page shows, as JSON."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pydantic_core import PydanticUndefined

from core import __version__
from core.admin.device import device_memory
from core.admin.guard import Guard
from core.admin.http import Request, Response, json_response
from core.admin.sampler import Sampler
from core.config import PROJECT_ROOT, Settings
from core.connection import REDIS_ERRORS
from core.dead import DeadList
from core.dead_job import DeadJob
from core.overview import shm_use
from core.redis_url import without_password
from core.telemetry import Watch
from core.telemetry.record import Phase

#: Entries of the dead list on the page; the command line shows all.
DEAD_SHOWN: Final = 50

#: Longest text of a message on the page, in characters.
LONGEST: Final = 300


class Report:
    """Puts the page's content together."""

    def __init__(
        self, settings: Settings, watch: Watch, sampler: Sampler, dead: DeadList, guard: Guard
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._sampler = sampler
        self._dead = dead
        self._guard = guard
        self._different = different_settings(settings)

    def __call__(self, request: Request) -> Response:
        """Everything; the history only after the row number `after` of the query."""
        overview = self._sampler.overview()
        return json_response(
            {
                "now": time.time(),
                "worker": self._worker(),
                "health": self.health(),
                "settings": self._different,
                "overview": overview and overview.to_dict(),
                "shm": asdict(shm_use(self._settings)),
                "device_memory": device_memory(),
                "history": self._history(request.number("after")),
                "dead": [] if overview is None else self._dead_jobs(),
                "previews": self._previews(),
                "may": {
                    "try": self._guard.may_try(request),
                    "change": self._guard.may_change(request),
                    "token_is_set": bool(self._settings.admin_token),
                },
                **self._recent(),
            }
        )

    def health(self) -> dict[str, Any]:
        """Whether the worker lives and is ready and, where not, why."""
        dead, unready = self._watch.trouble(), self.unreadiness()
        return {"live": not dead, "ready": not unready, "why": dead or unready}

    def unreadiness(self) -> str:
        """Why this worker does not take jobs; empty if it does."""
        if self._watch.phase is not Phase.SERVING:
            return str(self._watch.phase)
        if trouble := self._watch.trouble():
            return trouble
        if obstacle := self._watch.obstacle():
            return without_password(obstacle)
        if self._sampler.overview() is None:
            return without_password(self._sampler.complaint)
        return ""

    def _worker(self) -> dict[str, Any]:
        watch = self._watch
        return {
            "worker": watch.worker,
            "version": __version__,
            "phase": watch.phase,
            "started": watch.started_at,
            "model": watch.model,
            "checkpoint": _short_path(self._settings.lama_checkpoint_path),
            "redis": without_password(self._settings.redis_url),
            "in_flight": watch.in_flight(),
            "half_fallbacks": watch.half_fallbacks(),
            "reconnections": watch.reconnections,
            "per_minute": watch.per_minute(),
            **{outcome: watch.total(outcome) for outcome in ("done", "retried", "dead", "lost")},
        }

    def _history(self, after: int) -> dict[str, Any]:
        number, columns = self._sampler.history.after(after)
        return {"number": number, "columns": columns}

    def _recent(self) -> dict[str, Any]:
        with self._watch.lock:
            batches, failures = list(self._watch.batches), list(self._watch.failed)
        return {
            "batches": [
                {**asdict(one), "request_ids": [_cut(name) for name in one.request_ids]}
                for one in reversed(batches)
            ],
            "failures": [
                {name: _cut(value) for name, value in asdict(one).items()}
                for one in reversed(failures)
            ],
        }

    def _dead_jobs(self) -> list[dict[str, Any]]:
        try:
            jobs = self._dead.latest(DEAD_SHOWN)
        except REDIS_ERRORS:
            return []
        return [{**described(job), "refusal": self._dead.refusal(job)} for job in jobs]

    def _previews(self) -> list[dict[str, Any]]:
        return [
            {
                "number": one.number,
                "at": one.at,
                "request_id": _cut(one.request_id),
                "image_id": _cut(one.image_id),
            }
            for one in self._watch.previews.latest()
        ]


def described(job: DeadJob) -> dict[str, Any]:
    """A dead job for JSON, with its texts cut to a length that a person reads."""
    return {
        "id": job.id,
        "at": job.at,
        "reason": _cut(job.reason),
        "error": _cut(job.error),
        "attempts": job.attempts,
        "queue": _cut(job.queue),
        "worker": _cut(job.worker),
        "request_id": _cut(job.request_id),
        "image_id": _cut(job.image_id),
    }


def different_settings(settings: Settings) -> list[dict[str, str]]:
    """The settings that are not the default, fit for others' eyes."""
    different = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if field.default is PydanticUndefined or value == field.default:
            continue
        different.append(
            {
                "name": name.upper(),
                "value": _shown(name, value),
                "default": _shown(name, field.default),
            }
        )
    return different


def _shown(name: str, value: Any) -> str:
    if name == "admin_token":
        return "(set)" if value else "none"
    if name == "shm_file_mode":
        return f"{value:04o}"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Path):
        return _short_path(value)
    return without_password(str(value))


def _short_path(path: Path) -> str:
    return str(path).removeprefix(f"{PROJECT_ROOT}/")


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST:
        return value[: LONGEST - 1] + "…"
    return value
