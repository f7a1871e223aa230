"""The admin server: its routes and its threads."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from core.admin.guard import Guard
from core.admin.health import Health
from core.admin.http import (
    HttpError,
    Places,
    Request,
    Response,
    Route,
    json_response,
    text_response,
)
from core.admin.listener import HttpServer, listen
from core.admin.renewed import Renewed
from core.admin.report import Report
from core.admin.sampler import Sampler
from core.broker.connection import sync_client
from core.broker.dead_job import ID_LENGTH, DeadJob
from core.broker.dead_list import DeadList
from core.broker.redis_errors import REDIS_ERRORS
from core.config import Settings
from core.identity import process_name
from core.telemetry import watch
from core.telemetry.logs import number_of

log = logging.getLogger(__name__)

STATIC: Final = Path(__file__).parent / "static"

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}

#: Header that names the process, because containers may share a network.
NAME: Final = {"Inpainting-Process": process_name()}

#: Timeout of Redis, in seconds.
REDIS_TIMEOUT_S: Final = 2.0

#: Largest body of a picture with its mask, as PNG in base64.
MOST_TRIED_BYTES: Final = 64 << 20

#: Number of pictures that may be tried at the same time.
MOST_TRIED: Final = 2

#: Seconds that a stop waits for the end of trials.
TRY_STOP_S: Final = 1.0

#: Seconds within which the server notices a stop.
POLL_S: Final = 0.1

#: Largest number of dead jobs that one request may name.
MOST_DEAD: Final = 200

#: Longest text, in characters, that says why one of them was not changed.
MOST_COMPLAINT: Final = 300


class AdminServer:
    """Threads that serve the admin port from `start` to `stop`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guard = Guard(settings.admin_token)
        connect = partial(sync_client, settings.redis_url, timeout_s=REDIS_TIMEOUT_S)
        self._sampler = Sampler(connect, settings.queues, settings.result_queue, watch)
        self._health = Health(watch, self._sampler)
        self._dead = Renewed(watch, lambda: DeadList(settings, connect()))
        self._report = Report(settings, watch, self._sampler, self._dead, self._guard)
        self._metrics: Any = None
        self._trials: Any = None
        self._tried = Places(
            MOST_TRIED, f"{MOST_TRIED} pictures are tried already: wait until one is done"
        )
        self._http = self._listen()
        watch.previews.enabled = settings.status_previews

    def start(self) -> None:
        """Serve, in threads that end with the process."""
        self._sampler.start()
        threading.Thread(
            target=self._http.serve_forever, args=(POLL_S,), name="admin", daemon=True
        ).start()
        watch.admin_port = port = self._http.server_port
        first = self._settings.admin_port
        log.info(
            "metrics, health and status page on http://%s:%d/%s",
            _reachable_as(self._settings.admin_host),
            port,
            "" if port == first else f" (port {first} is taken)",
        )

    def stop(self) -> None:
        """Take no more requests."""
        self._sampler.stop()
        if self._trials is not None:
            self._trials.stop()
        self._tried.close(TRY_STOP_S)
        self._http.shutdown()
        self._http.server_close()

    def _listen(self) -> HttpServer:
        guard = self._guard
        routes = {
            ("GET", "/livez"): Route(self._livez, guard.anybody, probe=True),
            ("GET", "/readyz"): Route(self._readyz, guard.anybody, probe=True),
            ("GET", "/metrics"): Route(self._scraped, guard.anybody),
            ("GET", "/api/status"): Route(self._report, guard.reader),
            ("GET", "/api/preview"): Route(self._preview, guard.reader),
            ("POST", "/api/try"): Route(self._try, guard.trier, MOST_TRIED_BYTES, self._tried),
            ("POST", "/api/dead/retry"): Route(self._retry, guard.changer, 64 << 10),
            ("POST", "/api/dead/discard"): Route(self._discard, guard.changer, 64 << 10),
        }
        for path in sorted(STATIC.iterdir()):
            route = Route(_file(path), guard.anybody)
            routes["GET", "/" if path.name == "index.html" else f"/{path.name}"] = route
        return listen(self._settings.admin_host, self._settings.admin_ports, routes)

    # -- answers --------------------------------------------------------------------------------

    def _livez(self, _: Request) -> Response:
        return _verdict(self._health.trouble())

    def _readyz(self, _: Request) -> Response:
        return _verdict(self._health.unreadiness())

    def _scraped(self, _: Request) -> Response:
        if self._metrics is None:  # imported on demand, to start faster
            from core.admin.metrics import Metrics

            self._metrics = Metrics(watch, self._sampler, self._settings.shm_name_prefix)
        return Response(HTTPStatus.OK, self._metrics.render(), self._metrics.content_type)

    def _preview(self, request: Request) -> Response:
        preview = watch.previews.find(request.number("number"))
        if preview is None:
            raise HttpError(HTTPStatus.NOT_FOUND, "there is no such picture any more")
        after = request.query.get("side") == "after"
        return Response(HTTPStatus.OK, preview.after if after else preview.before, "image/jpeg")

    def _try(self, request: Request) -> Response:
        if self._trials is None:  # imported on demand: it needs OpenCV
            from core.admin.trials import Trials
            from core.client import Client

            connect = partial(Client, self._settings)
            self._trials = Trials(connect, self._settings.max_image_pixels, watch)
        answer: Response = self._trials(request)
        return answer

    def _retry(self, request: Request) -> Response:
        return self._change(request, "retried", DeadList.retry)

    def _discard(self, request: Request) -> Response:
        return self._change(request, "discarded", DeadList.discard)

    def _change(
        self, request: Request, verb: str, change: Callable[[DeadList, DeadJob], bool]
    ) -> Response:
        ids, dead = _ids(request.body), self._dead()
        done, problems = 0, []
        try:
            for job in dead.named(ids):
                try:
                    if refusal := change is DeadList.retry and dead.refusal(job):
                        raise ValueError(refusal)
                    done += change(dead, job)
                except ValueError as error:
                    problems.append(str(error)[:MOST_COMPLAINT])
        except REDIS_ERRORS as error:
            self._dead.renew()
            raise HttpError(
                HTTPStatus.SERVICE_UNAVAILABLE, f"Redis does not answer: {error}"
            ) from error
        finally:
            self._report.dead_changed()
        log.info(
            "%s %s from the status page by %s", number_of(done, "dead job"), verb, request.peer
        )
        return json_response({verb: done, "problems": problems})


def _verdict(problem: str) -> Response:
    if problem:
        refused = text_response(f"{problem}\n", HTTPStatus.SERVICE_UNAVAILABLE)
        return replace(refused, headers=NAME)
    return replace(text_response("ok\n"), headers=NAME)


def _file(path: Path) -> Callable[[Request], Response]:
    content, content_type = path.read_bytes(), TYPES[path.suffix]
    return lambda _: Response(HTTPStatus.OK, content, content_type)


def _ids(body: bytes) -> tuple[str, ...]:
    try:
        ids = json.loads(body)["ids"]
    except (ValueError, KeyError, TypeError, RecursionError):
        ids = None
    if (
        not isinstance(ids, list)
        or not 0 < len(ids) <= MOST_DEAD
        or not all(isinstance(id_, str) and len(id_) == ID_LENGTH and id_.isalnum() for id_ in ids)
    ):
        raise HttpError(
            HTTPStatus.BAD_REQUEST, f'the body must be {{"ids": […]}} with 1 to {MOST_DEAD} ids'
        )
    return tuple(ids)


def _reachable_as(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - a comparison
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
