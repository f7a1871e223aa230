"""Disturbances of the programs of a run, of Redis, and of the network between them."""

from __future__ import annotations

import contextlib
import signal
from functools import partial

from redis.exceptions import RedisError

from chaos.arena import Arena
from chaos.settings import TTL_S


def kill(arena: Arena) -> None:
    """A worker gets SIGKILL."""
    arena.random.choice(arena.workers).send(signal.SIGKILL)


def stop(arena: Arena) -> None:
    """A worker gets SIGTERM."""
    arena.random.choice(arena.workers).send(signal.SIGTERM)


def freeze(arena: Arena) -> None:
    """A worker gets SIGSTOP, and SIGCONT when its heartbeat is gone, or before that."""
    worker = arena.random.choice(arena.workers)
    worker.send(signal.SIGSTOP)
    arena.tally.others["worker frozen"] += 1
    lives = arena.random.choice([0.3, 1.5, 2, 4])  # of a heartbeat
    arena.later(lives * TTL_S, lambda: worker.send(signal.SIGCONT))


def forget(arena: Arena) -> None:
    """Redis forgets the scripts that it has loaded."""
    with contextlib.suppress(RedisError), arena.servers.client() as client:
        client.script_flush()
        arena.tally.others["scripts forgotten"] += 1


def neighbour(arena: Arena) -> None:
    """Sender or receiver gets SIGKILL."""
    arena.random.choice(list(arena.neighbours.values())).send(signal.SIGKILL)


def redis(arena: Arena) -> None:
    """Redis is killed or stopped, and is back in a while."""
    if arena.servers.is_down:
        return
    if arena.random.random() < 0.5:
        arena.tally.kills["redis"] += 1
        arena.servers.master.kill()
    else:
        arena.servers.master.stop()
    arena.servers.is_down = True
    seconds = arena.random.choice([0.1, 1, 3])
    arena.expect_trouble(seconds + 1)
    arena.later(seconds, partial(_bring_back, arena))


def _bring_back(arena: Arena) -> None:
    arena.tally.restarts["redis"] += 1
    arena.servers.master.start()
    arena.servers.is_down = False


def network(arena: Arena) -> None:
    """Connections are cut, frozen, slow, or lose a reply."""
    share = arena.random.choice([0.2, 0.5, 1.0])
    harm = arena.random.choice(["cut", "frozen", "late", "reply lost"])
    arena.tally.others[f"network {harm}"] += 1
    seconds = 0.0
    if harm == "cut":
        arena.network.cut(arena.random, share)
    elif harm == "frozen":
        # Longer than a heartbeat lives, and longer than the worker waits for an answer.
        seconds = arena.random.choice([0.3, 1, 3, 9])
        arena.network.freeze(arena.random, share, seconds)
    elif harm == "late":
        seconds = arena.random.choice([0.1, 0.5, 1, 6])
        arena.network.answer_late(arena.random, share, seconds)
    else:
        arena.network.lose_replies(arena.random, share)
    arena.expect_trouble(seconds)
