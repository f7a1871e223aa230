"""The end of a run: waits until all jobs are done, stops everything, and makes the account."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from chaos.account import Account, count_leftovers, is_idle, jobs_account, remove_unsent
from chaos.arena import Arena
from chaos.outcomes import Outcomes
from core import keys
from core.identity import current_namespace
from harness.device import BROKEN_TEXT

#: How long the jobs may take to finish after the last disturbance, in seconds. A device that has
#: killed everything is tried once a minute.
PATIENCE_S: Final = 150.0

#: What the log of no worker may say.
ALARMS: Final = (
    "Traceback",
    "failed unexpectedly",
    "recovery failed",
    "never retrieved",
    "CRITICAL",
)


def settle(arena: Arena) -> Account:
    """Wait until all is done, stop all programs, and make the account."""
    arena.calm_down()
    arena.neighbours.pop("sender").stop()
    with arena.servers.client() as client:
        deadline = time.monotonic() + PATIENCE_S
        while not is_idle(client):
            if time.monotonic() > deadline:
                arena.tally.wrong.append(f"not done after {PATIENCE_S:g} s in peace")
                break
            arena.look_after(0.05)
        arena.stop_all()
        begun, sent = arena.journal.read()
        arena.evidence.crashes = arena.device.crashes(arena.tally.harmed)
        arena.evidence.outcomes = Outcomes(client, arena.jobs)
        account = jobs_account(client, arena.jobs, begun, sent, arena.evidence)
        remove_unsent(client, arena.jobs, begun - sent)
        _expire_dead(arena, client)
        namespace = current_namespace()
        count_leftovers(account, client, arena.jobs, namespace)
    account.wrong += arena.tally.wrong + _alarms(arena)
    return account


def _expire_dead(arena: Arena, client: Any) -> None:
    """A last worker removes dead jobs with their inputs, and what others left."""
    # Those that died when they were stopped count as alive until their heartbeats expire.
    _wait(lambda: not _count_alive(client))
    last = arena.worker("worker-last", {"DEAD_TTL_S": "0.001", "REAP_INTERVAL_S": "0.2"})
    last.start()
    _wait(lambda: _count_alive(client) == 1)
    _wait(lambda: not (client.exists(keys.DEAD) or arena.jobs.segments() or _has_others(client)))
    last.stop()


def _alarms(arena: Arena) -> list[str]:
    return [
        f"{log.name}: {line.strip()}"
        for log in sorted(arena.folder.glob("*.log"))
        for line in log.read_text("utf-8", "replace").splitlines()
        if any(alarm in line for alarm in ALARMS) and BROKEN_TEXT not in line
    ][:20]


def _wait(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most PATIENCE_S; the account says what is left."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def _count_alive(client: Any) -> int:
    return sum(1 for _ in client.scan_iter(keys.heartbeat("*"), 1000))


def _has_others(client: Any) -> bool:
    """Whether a worker other than the last one is known."""
    known = client.scan_iter(keys.workers("*"), 1000)
    return sum(int(client.scard(key)) for key in known) > 1
