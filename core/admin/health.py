"""Liveness and readiness of the worker, answered without waiting."""

from __future__ import annotations

from core.admin.sampler import Sampler
from core.config.redis_url import without_password
from core.telemetry import Watch
from core.telemetry.record import Phase


class Health:
    """Liveness and readiness, for /livez, /readyz, the metrics and the status page."""

    def __init__(self, watch: Watch, sampler: Sampler) -> None:
        self._watch = watch
        self._sampler = sampler

    def trouble(self) -> str:
        """Why this process should be replaced by a new one; empty if it is alive."""
        return self._watch.trouble()

    def unreadiness(self) -> str:
        """Why this worker does not take jobs; empty if it does."""
        if self._watch.phase is not Phase.SERVING:
            return str(self._watch.phase)
        if trouble := self._watch.trouble():
            return trouble
        return without_password(self._watch.obstacle() or self._sampler.complaint())
