"""The demo's worker: the real one, as a process that is waited for until it has registered."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import redis

from core import keys
from core.broker.connection import sync_client
from core.broker.redis_errors import REDIS_ERRORS
from core.config import PROJECT_ROOT, Settings
from core.identity import current_namespace
from core.keys import Kind
from harness.process import Process, python

#: The network is loaded before a worker registers; from a cold disk on a small machine that is
#: minutes rather than seconds.
START_TIMEOUT_S = 300.0

#: Seconds beyond SHUTDOWN_GRACE_S after which a worker that should stop is killed.
STOP_MARGIN_S = 10.0

POLL_S = 0.1
TAIL_LINES = 15

#: What suits a demo on any machine, unless the environment says otherwise: pairs use little memory
#: and give a result every few seconds, and a slow CPU is not a hung network.
DEFAULTS = {
    "INPAINTING_BATCH_SIZE_LONG": "2",
    "INPAINTING_BATCH_SIZE_SHORT": "2",
    "INFERENCE_TIMEOUT_S": "600",
}


class WorkerFailed(Exception):
    """The worker ended by itself or did not get ready; the message holds the end of its log."""


class WorkerProcess(Process):
    """`worker.py` with the Redis, queues and segment names of `settings`; its log is a file.

    As a context manager it is stopped at the end, also after an error.
    """

    def __init__(
        self, settings: Settings, log: Path, program: Path = PROJECT_ROOT / "worker.py"
    ) -> None:
        environment = {
            **DEFAULTS,
            **os.environ,
            "REDIS_URL": settings.redis_url,
            "LAMA_INFERENCE_LONG_TASKS_QUEUE": settings.queue(Kind.LONG),
            "LAMA_INFERENCE_SHORT_TASKS_QUEUE": settings.queue(Kind.SHORT),
            "SHM_NAME_PREFIX": settings.shm_name_prefix,
        }
        super().__init__(python(program), environment, log, folder=Path.cwd())
        log.unlink(missing_ok=True)  # of an earlier run
        self._settings = settings
        self._worker: str | None = None  # the id under which it has registered
        #: Where its status page is, once it has registered; 0 if it has none.
        self.admin_port = 0

    def __exit__(self, *_: object) -> None:
        self.finish()

    def wait_until_registered(self) -> None:
        """Return once the worker has announced itself in Redis, ready for jobs.

        Raises WorkerFailed if it ends first or takes longer than START_TIMEOUT_S.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        with sync_client(self._settings.redis_url) as client:
            while (found := self._find(client)) is None:
                self.check()
                if time.monotonic() > deadline:
                    raise WorkerFailed(
                        f"the worker is not ready after {START_TIMEOUT_S:g} s.\n{self._tail()}"
                    )
                time.sleep(POLL_S)
        self._worker = found

    def check(self) -> None:
        """Raise WorkerFailed if the worker has ended by itself."""
        status = self.poll()
        if status is not None:
            raise WorkerFailed(f"the worker ended with exit status {status}.\n{self._tail()}")

    def finish(self) -> int:
        """Send SIGTERM and wait; the exit status, also of a worker that has ended before.

        A worker that does not end is killed (status -9).
        """
        try:
            return self.stop(timeout=self._settings.shutdown_grace_s + STOP_MARGIN_S)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            if self.poll():
                self._forget()

    def _find(self, client: redis.Redis) -> str | None:
        namespace = current_namespace()
        prefix = keys.heartbeat("")
        for key in client.scan_iter(match=f"{prefix}*"):
            value = client.get(key)
            about = json.loads(value) if isinstance(value, bytes) else {}
            if (about.get("pid"), about.get("namespace")) == (self.pid, namespace):
                self.admin_port = int(about.get("admin_port", 0))
                return str(key.decode()).removeprefix(prefix)
        return None

    def _forget(self) -> None:
        """Remove what a worker that did not stop cleanly has left in Redis.

        These are jobs of the demo, whose pictures are removed next: no worker can do them again,
        and none that serves other queues cleans up after this one.
        """
        if self._worker is None:
            return
        left = [keys.heartbeat(self._worker), keys.cleanup(self._worker)]
        left += [keys.processing(self._worker, kind) for kind in Kind]
        with contextlib.suppress(*REDIS_ERRORS), sync_client(self._settings.redis_url) as client:
            client.delete(*left)
            client.srem(keys.workers(current_namespace()), self._worker)

    def _tail(self) -> str:
        lines = self.output.splitlines()[-TAIL_LINES:]
        return "\n".join([f"The last lines of {self.log}:", *(f"  {line}" for line in lines)])
