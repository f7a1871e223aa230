"""The heartbeat: a thread of its own, so that no inference and no slow loop can starve it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

from core import __version__, keys
from core.config import Settings
from core.connection import REDIS_ERRORS, sync_client
from core.identity import Identity
from core.telemetry import watch

log = logging.getLogger(__name__)


class Heartbeat(threading.Thread):
    """Renews the worker's heartbeat until it is stopped.

    When the heartbeat is found gone, the worker was presumed dead and others may have taken its
    jobs: it registers again, and `on_revival` is called from this thread.
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
        """End the thread; returns once it has ended, so that nothing is announced afterwards."""
        self._stopped.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        ttl_ms = int(self._settings.heartbeat_ttl_s * 1000)
        interval_s = self._settings.heartbeat_interval_s
        key = keys.heartbeat(self._identity.worker)
        members = keys.workers(self._identity.namespace)
        with sync_client(self._settings, timeout_s=min(interval_s, 5.0)) as redis:
            while not self._stopped.wait(interval_s):
                try:
                    value = heartbeat_value(self._identity)
                    if redis.set(key, value, px=ttl_ms, xx=True):
                        continue
                    with redis.pipeline(transaction=True) as transaction:
                        transaction.set(key, value, px=ttl_ms)
                        transaction.sadd(members, self._identity.worker)
                        transaction.execute()
                except REDIS_ERRORS as error:
                    log.debug("no heartbeat: %s", error)
                except Exception:  # without this thread the worker would count as dead for good
                    log.exception("no heartbeat")
                else:
                    log.warning("the heartbeat was gone: registered %s again", key)
                    self._on_revival()


def heartbeat_value(identity: Identity) -> str:
    """What a worker's heartbeat says about it."""
    return json.dumps(
        {
            "host": identity.host,
            "pid": identity.pid,
            "namespace": identity.namespace,
            "version": __version__,
            "started": identity.started,
            **watch.in_brief(),
        }
    )
