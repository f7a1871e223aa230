"""The heartbeat. It has its own thread, so that no inference and no slow loop can starve it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

from redis import Redis

from core import __version__, keys
from core.broker.connection import UNREADY_AFTER_S, sync_client
from core.broker.redis_errors import REDIS_ERRORS, is_out_of_memory
from core.broker.scripts import Script
from core.config import Settings
from core.identity import Identity, crew_of, process_name
from core.telemetry import watch

log = logging.getLogger(__name__)


class Heartbeat(threading.Thread):
    """Renews the worker's heartbeat until it is stopped.

    If the heartbeat has expired, the worker was presumed dead and others may have taken its jobs.
    Then it registers again and calls `on_revival` from this thread.
    """

    def __init__(
        self, settings: Settings, identity: Identity, on_revival: Callable[[], None]
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._settings = settings
        self._identity = identity
        self._on_revival = on_revival
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stop the thread and wait for its end, so that no heartbeat is sent afterwards."""
        self._stopped.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        ttl_ms = int(self._settings.heartbeat_ttl_s * 1000)
        interval_s = self._settings.heartbeat_interval_s
        key = keys.heartbeat(self._identity.worker)
        with sync_client(self._settings.redis_url, timeout_s=min(interval_s, 5.0)) as redis:
            register = Script("register", redis)
            while not self._stopped.wait(interval_s):
                try:
                    if self._renew(redis, key, ttl_ms):
                        continue
                    register(**registration(self._settings, self._identity))
                except REDIS_ERRORS as error:
                    log.debug("no heartbeat: %s", error)
                    watch.set_obstacle(
                        "heartbeat", f"no heartbeat reaches redis: {error}", UNREADY_AFTER_S
                    )
                except Exception:  # without this thread the worker would be presumed dead for ever
                    log.exception("no heartbeat")
                else:
                    log.warning("the heartbeat was gone: registered %s again", key)
                    self._on_revival()

    def _renew(self, redis: Redis, key: str, ttl_ms: int) -> bool:
        """Renew the heartbeat; False if it has expired."""
        try:
            renewed = redis.set(key, heartbeat_value(self._identity), px=ttl_ms, xx=True)
        except REDIS_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            # A full server refuses a new value, but a new expiry needs no memory.
            watch.set_obstacle("heartbeat", f"redis takes no writes: {error}", UNREADY_AFTER_S)
            return bool(redis.pexpire(key, ttl_ms))
        watch.clear_obstacle("heartbeat")
        return bool(renewed)


def registration(settings: Settings, identity: Identity) -> dict[str, Any]:
    """The keys and arguments of lua/register.lua."""
    crew = crew_of(settings.queues, identity.namespace, identity.host)
    return {
        "heartbeat": keys.heartbeat(identity.worker),
        "workers": keys.workers(identity.namespace),
        "segments": keys.segments(identity.namespace),
        "worker": identity.worker,
        "value": heartbeat_value(identity),
        "ttl_ms": int(settings.heartbeat_ttl_s * 1000),
        "crew": crew.name,
        "description": crew.description,
    }


def heartbeat_value(identity: Identity) -> str:
    """The value of a worker's heartbeat: JSON that describes the worker."""
    return json.dumps(
        {
            "host": identity.host,
            "pid": identity.pid,
            "process": process_name(),  # host and pid do not identify a container
            "namespace": identity.namespace,
            "version": __version__,
            "started": identity.started,
            **watch.in_brief(),
        }
    )
