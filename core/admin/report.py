"""The data of the status page, as JSON."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import Any, Final

from pydantic_core import PydanticUndefined

from core import __version__
from core.admin.guard import Guard
from core.admin.health import Health
from core.admin.http import Request, Response, json_response
from core.admin.renewed import Renewed
from core.admin.sampler import FRESH_S, Sampler
from core.broker.dead_job import DeadJob
from core.broker.dead_list import DeadList
from core.broker.redis_errors import REDIS_ERRORS
from core.config import Settings
from core.config.redis_url import without_password
from core.config.shown import shown
from core.network import device_memory
from core.recovery.overview import shm_use
from core.telemetry import Watch

#: Number of entries of the dead-letter list on the page; the command line shows all.
DEAD_SHOWN: Final = 50

#: Longest text of a message on the page, in characters.
LONGEST: Final = 300


class Report:
    """Builds the data of the status page."""

    def __init__(
        self,
        settings: Settings,
        watch: Watch,
        sampler: Sampler,
        dead: Renewed[DeadList],
        guard: Guard,
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._sampler = sampler
        self._health = Health(watch, sampler)
        self._dead = dead
        self._guard = guard
        self._different = different_settings(settings)
        self._asking = threading.Lock()
        self._dead_shown: list[dict[str, Any]] = []
        self._dead_asked_at = float("-inf")

    def __call__(self, request: Request) -> Response:
        """All data; of the history only the rows after number `after` of the query."""
        overview = self._sampler.overview()
        return json_response(
            {
                "now": time.time(),
                "worker": self._worker(),
                "health": self._verdict(),
                "settings": self._different,
                "overview": overview and overview.to_dict(),
                "shm": asdict(shm_use(self._settings.shm_name_prefix)),
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

    def _verdict(self) -> dict[str, Any]:
        """Whether the worker is alive and ready and, if not, why."""
        dead, unready = self._health.trouble(), self._health.unreadiness()
        return {"live": not dead, "ready": not unready, "why": dead or unready}

    def _worker(self) -> dict[str, Any]:
        watch = self._watch
        return {
            "worker": watch.worker,
            "version": __version__,
            "phase": watch.phase,
            "started": watch.started_at,
            "model": watch.model,
            "checkpoint": shown("lama_checkpoint_path", self._settings.lama_checkpoint_path),
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
                {**asdict(note), "request_ids": [_cut(name) for name in note.request_ids]}
                for note in reversed(batches)
            ],
            "failures": [
                {name: _cut(value) for name, value in asdict(note).items()}
                for note in reversed(failures)
            ],
        }

    def dead_changed(self) -> None:
        """Read the dead-letter list again for the next report."""
        with self._asking:
            self._dead_asked_at = float("-inf")

    def _dead_jobs(self) -> list[dict[str, Any]]:
        """The newest dead jobs, at most FRESH_S old."""
        with self._asking:
            if time.monotonic() - self._dead_asked_at > FRESH_S:
                dead = self._dead()
                try:
                    jobs = dead.latest(DEAD_SHOWN)
                except REDIS_ERRORS:
                    self._dead.renew()
                    jobs = []
                self._dead_shown = [
                    {**described(job), "refusal": _cut(dead.refusal(job, examine=False))}
                    for job in jobs
                ]
                self._dead_asked_at = time.monotonic()
            return self._dead_shown

    def _previews(self) -> list[dict[str, Any]]:
        return [
            {
                "number": preview.number,
                "at": preview.at,
                "request_id": _cut(preview.request_id),
                "image_id": _cut(preview.image_id),
            }
            for preview in self._watch.previews.latest()
        ]


def described(job: DeadJob) -> dict[str, Any]:
    """A dead job for JSON, with long texts cut."""
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
        "length": job.length,
    }


def different_settings(settings: Settings) -> list[dict[str, str]]:
    """The settings that are not the default, without secrets."""
    different = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if field.default is PydanticUndefined or value == field.default:
            continue
        different.append(
            {
                "name": name.upper(),
                "value": shown(name, value),
                "default": shown(name, field.default),
            }
        )
    return different


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST:
        return value[: LONGEST - 1] + "…"
    return value
