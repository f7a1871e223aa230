"""`health`: ask a running worker whether it is well, for HEALTHCHECK and the like."""

from __future__ import annotations

import argparse
import http.client
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from core.admin.listener import ports_from
from core.commands.common import RedisUnavailable, add_command, connected, print_json
from core.config import Settings, load_settings
from core.errors import WorkerError
from core.identity import current_identity, process_name
from core.recovery.overview import read_overview
from core.telemetry.logs import printable

TIMEOUT_S: Final = 5.0

WITHOUT_PORT: Final = """With
ADMIN_PORT=0 its heartbeat in Redis tells. While Redis cannot be used the worker then
counts as alive, since a new process would not change that, and as not ready."""


class NoWorker(WorkerError):
    """Nobody answers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker said of itself; port 0 is its heartbeat."""

    port: int
    healthy: bool
    says: str


def add(commands: Any) -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "health",
        "ask the worker in this container or on this host whether it is well",
        "health\nhealth --ready\nhealth --port 9091 --json",
        command,
    )
    parser.description = f"{parser.description} {WITHOUT_PORT}"
    parser.add_argument(
        "--ready",
        action="store_true",
        help="whether it takes jobs (/readyz), and not only whether it lives (/livez)",
    )
    parser.add_argument(
        "--port", type=int, help="the worker there; otherwise all that share this process namespace"
    )


def command(options: argparse.Namespace) -> int:
    """0 if every worker that answers is well, 1 if one is not or none answers."""
    settings = load_settings()
    path = "/readyz" if options.ready else "/livez"
    if options.port is None and settings.admin_port == 0:
        answers = _beating(settings, ready=options.ready)
    else:
        answers = _answers(settings, path, options.port)
    if not answers:
        ports = ports_from(settings.admin_port)
        where = options.port or f"{ports[0]} to {ports[-1]}"
        raise NoWorker(
            f"no worker of this host answers on port {where}: is one running, with this ADMIN_PORT?"
        )
    if options.json:
        print_json([asdict(answer) for answer in answers])
    else:
        for answer in answers:
            stream = sys.stdout if answer.healthy else sys.stderr
            where = f"port {answer.port}: " if answer.port else ""
            print(where + printable(answer.says), file=stream)
    return 0 if all(answer.healthy for answer in answers) else 1


def _beating(settings: Settings, *, ready: bool) -> list[Answer]:
    """Without an admin port: the workers of this process namespace that have a heartbeat."""
    me = current_identity(settings)
    try:
        with connected(settings) as client:
            workers = read_overview(client, settings, me.namespace).workers
    except RedisUnavailable as error:
        if ready:
            raise
        return [Answer(0, True, f"no heartbeat can be read, which counts as alive: {error}")]
    alive = [one for one in workers if _is_here(one.process)]
    if not alive:
        raise NoWorker("ADMIN_PORT=0, and no worker of this host has a heartbeat in Redis")
    return [Answer(0, True, f"{one.worker} has a heartbeat in Redis") for one in alive]


def _is_here(process: str) -> bool:
    """Whether a process, as `process_name` has it, is alive in this process namespace."""
    namespace, _, pid = process.partition(":")
    here = process_name().partition(":")[0]
    return namespace == here and pid.isdecimal() and Path(f"/proc/{pid}").exists()


def _answers(settings: Settings, path: str, port: int | None) -> list[Answer]:
    everywhere = settings.admin_host in ("0.0.0.0", "::")  # noqa: S104 - a comparison
    host = "127.0.0.1" if everywhere else settings.admin_host
    if port is not None:
        return [answer for answer, _ in [_ask(host, port, path)] if answer]
    ports = ports_from(settings.admin_port)
    # At once: somebody else's server that is mute costs the time-out.
    with ThreadPoolExecutor(len(ports), "health") as threads:
        asked = list(threads.map(lambda one: _ask(host, one, path), ports))
    # With the host's network other containers' workers answer too; they have their own check.
    mine = process_name().partition(":")[0]
    return [answer for answer, process in asked if answer and process.partition(":")[0] == mine]


def _ask(host: str, port: int, path: str) -> tuple[Answer | None, str]:
    """A worker's answer, and the name of its process; None if there is no worker."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Host": f"localhost:{port}"})
        reply = connection.getresponse()
        says = reply.read(1000).decode("utf-8", "replace").strip()
    except ConnectionRefusedError:
        return None, ""
    except (OSError, http.client.HTTPException) as error:
        # It hangs, or it is no worker: only the one on the expected port can be told.
        return Answer(port, False, f"does not answer: {error}"), ""
    finally:
        connection.close()
    return Answer(port, reply.status == 200, says), reply.headers.get("Inpainting-Process", "")
