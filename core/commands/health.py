"""`health`: asks a running worker whether it is healthy, for HEALTHCHECK and the like."""

from __future__ import annotations

import argparse
import http.client
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from core.commands.common import RedisUnavailable, add_command, connected, print_json
from core.config import Settings, load_settings
from core.errors import WorkerError
from core.identity import current_namespace, process_name
from core.recovery.overview import read_overview
from core.telemetry.logs import printable

TIMEOUT_S: Final = 5.0

WITHOUT_PORT: Final = """With ADMIN_PORT=0, its
heartbeat in Redis is checked. While Redis cannot be used, the worker then
counts as alive, because a new process would not help, and as not ready."""


class NoWorker(WorkerError):
    """No worker answers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's answer; port 0 stands for its heartbeat."""

    port: int
    healthy: bool
    says: str


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "health",
        "ask the worker in this container or on this host whether it is healthy",
        "health\nhealth --ready\nhealth --port 5263 --json",
        command,
    )
    parser.description = f"{parser.description} {WITHOUT_PORT}"
    parser.add_argument(
        "--ready",
        action="store_true",
        help="check whether it takes jobs (/readyz), not only whether it is alive (/livez)",
    )
    parser.add_argument(
        "--port",
        type=int,
        help="only the worker on this port; default: all in this process namespace",
    )


def command(options: argparse.Namespace) -> int:
    """Print the answers; returns 0 if all workers are healthy, else 1."""
    settings = load_settings()
    path = "/readyz" if options.ready else "/livez"
    if options.port is None and settings.admin_port == 0:
        answers = _from_heartbeats(settings, ready=options.ready)
    else:
        answers = _answers(settings.admin_host, settings.admin_ports, options.port, path)
    if not answers:
        ports = settings.admin_ports
        several = f"ports {ports[0]} to {ports[-1]}" if len(ports) > 1 else f"port {ports[0]}"
        where = several if options.port is None else f"port {options.port}"
        raise NoWorker(
            f"no worker of this host answers on {where}: is one running, with this ADMIN_PORT?"
        )
    if options.json:
        print_json([asdict(answer) for answer in answers])
    else:
        for answer in answers:
            stream = sys.stdout if answer.healthy else sys.stderr
            where = f"port {answer.port}: " if answer.port else ""
            print(where + printable(answer.says), file=stream)
    return 0 if all(answer.healthy for answer in answers) else 1


def _from_heartbeats(settings: Settings, *, ready: bool) -> list[Answer]:
    """Without an admin port: the workers of this process namespace that have a heartbeat."""
    namespace = current_namespace()
    try:
        with connected(settings.redis_url) as client:
            overview = read_overview(client, settings.queues, settings.result_queue, namespace)
    except RedisUnavailable as error:
        if ready:
            raise
        return [Answer(0, True, f"no heartbeat can be read, which counts as alive: {error}")]
    alive = [worker for worker in overview.workers if _is_here(worker.process)]
    if not alive:
        raise NoWorker("ADMIN_PORT=0, and no worker of this host has a heartbeat in Redis")
    return [Answer(0, True, f"{worker.worker} has a heartbeat in Redis") for worker in alive]


def _is_here(process: str) -> bool:
    """Whether a process, named as by `process_name`, is alive in this process namespace."""
    namespace, _, pid = process.partition(":")
    here = process_name().partition(":")[0]
    return namespace == here and pid.isdecimal() and Path(f"/proc/{pid}").exists()


def _answers(host: str, ports: Sequence[int], port: int | None, path: str) -> list[Answer]:
    """The answers on a port or, if it is None, on all of these."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - a comparison
        host = "127.0.0.1"
    if port is not None:
        return [answer for answer, _ in [_ask(host, port, path)] if answer]
    # In parallel: another program's server that does not answer costs the timeout.
    with ThreadPoolExecutor(len(ports), "health") as threads:
        asked = list(threads.map(lambda candidate: _ask(host, candidate, path), ports))
    # On the host's network, workers of other containers answer too. They have their own check.
    mine = process_name().partition(":")[0]
    return [answer for answer, process in asked if answer and process.partition(":")[0] == mine]


def _ask(host: str, port: int, path: str) -> tuple[Answer | None, str]:
    """A worker's answer and the name of its process; None if the port is closed."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Host": f"localhost:{port}"})
        reply = connection.getresponse()
        says = reply.read(1000).decode("utf-8", "replace").strip()
    except ConnectionRefusedError:
        return None, ""
    except (OSError, http.client.HTTPException) as error:
        # A hung worker, or another program. Without a process name, only --port reports it.
        return Answer(port, False, f"does not answer: {error}"), ""
    finally:
        connection.close()
    return Answer(port, reply.status == 200, says), reply.headers.get("Inpainting-Process", "")
