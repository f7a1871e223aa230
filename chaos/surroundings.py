"""Disturbances of the surroundings: Redis' memory and place, /dev/shm, the device, the admin port.

None of it may cost a job an attempt, let alone its life.
"""

from __future__ import annotations

import contextlib
import signal
import time
from functools import partial
from typing import Final

from redis.exceptions import RedisError

from chaos import large as large_messages
from chaos.arena import Arena
from chaos.disturbances import kill, stop
from chaos.jobs import QUEUES
from chaos.probe import Crowd
from chaos.programs import Program
from core import keys
from core.faults import VARIABLE, Fault
from harness.device import HELD_UP_S, State
from harness.private import own_shm, same_shm

#: Settings of workers with a /dev/shm of their own: when all others are dead for some seconds, they
#: must not dissolve them.
PATIENT: Final = {"ORPHAN_AFTER_S": "600"}


def large(arena: Arena) -> None:
    """A message of up to 100 MB is pushed."""
    messages = arena.evidence.large
    payload = large_messages.make(arena.random, f"{arena.jobs.tag}large-{len(messages)}")
    is_sent = False
    with contextlib.suppress(RedisError), arena.servers.client() as client:
        client.rpush(arena.random.choice(QUEUES), payload)
        is_sent = True
    messages.append(large_messages.describe(payload, is_sent=is_sent))
    arena.tally.others["large messages"] += 1
    arena.tally.others["MB of large messages"] += round(len(payload) / 1e6)
    arena.expect_trouble(1)


def blind(arena: Arena) -> None:
    """A worker that sees none of the segments joins for a while."""
    guest = arena.invite(own_shm(), **PATIENT)
    arena.evidence.had_guests = True
    arena.tally.others["blind workers"] += 1
    number = arena.random.choice([signal.SIGTERM, signal.SIGKILL])
    arena.later(arena.random.uniform(3, 9), lambda: guest.send(number))


def readonly(arena: Arena) -> None:
    """A worker that may not write to /dev/shm joins for a while."""
    guest = arena.invite(same_shm("ro"))
    arena.tally.others["workers that cannot write"] += 1
    number = arena.random.choice([signal.SIGTERM, signal.SIGKILL])
    arena.later(arena.random.uniform(3, 9), lambda: guest.send(number))


def vanish(arena: Arena) -> None:
    """A worker and its /dev/shm vanish while it has jobs in hand."""
    visits = arena.random.choice([1, 1, 2, 3])
    guest = arena.invite(own_shm(), **PATIENT, **{VARIABLE: f"{Fault.CLAIMED}:{visits}"})
    arena.evidence.had_guests = True
    arena.when_ended(guest, partial(_note_vanished, arena, guest))
    arena.later(10, lambda: guest.send(signal.SIGKILL))


def _note_vanished(arena: Arena, guest: Program) -> None:
    with contextlib.suppress(RedisError):
        jobs = len(arena.in_hand(guest.pid))
        arena.tally.others["namespaces vanished"] += 1
        arena.tally.others["jobs of vanished namespaces"] += jobs


def full(arena: Arena) -> None:
    """Redis refuses what needs memory for some seconds, in which a worker is killed, one stopped.

    The limit is 1 byte, what is in use now, or a little more: then some writes pass.
    """
    seconds = arena.random.uniform(1, 8)
    with contextlib.suppress(RedisError):
        used = arena.servers.used_bytes()
        arena.servers.set_limit(arena.random.choice([1, used, used + 100_000]))
        arena.tally.others["redis full"] += 1
    arena.expect_trouble(seconds)
    arena.later(0.4 * seconds, partial(kill, arena))
    arena.later(0.7 * seconds, partial(stop, arena))
    arena.later(seconds, lambda: arena.servers.set_limit(0))


def failover(arena: Arena) -> None:
    """The replica becomes the master; open connections stay with the old one."""
    if arena.servers.is_down:
        return
    arena.expect_trouble(1)
    switched = False
    with contextlib.suppress(RedisError):
        switched = arena.servers.switch()
    arena.follow_master()
    arena.tally.others["masters switched" if switched else "masters not switched"] += 1


def device(arena: Arena) -> None:
    """Each inference of any worker fails with DeviceFault, which ends the process."""
    arena.tally.others["device broken"] += 1
    arena.device.put(State.BROKEN, to=True)
    seconds = arena.random.uniform(2, 8)
    arena.later(seconds, lambda: arena.device.put(State.BROKEN, to=False))


def crash(arena: Arena) -> None:
    """Each inference of any worker kills its process; now and then long enough to give jobs up."""
    if arena.device.has(State.DEADLY):
        return
    arena.tally.others["device deadly"] += 1
    arena.device.put(State.DEADLY, to=True)
    began = time.time()

    def repair() -> None:
        arena.device.put(State.DEADLY, to=False)
        arena.evidence.outages.append((began, time.time()))

    arena.later(arena.random.choice([1, 3, 15]), repair)


def grace(arena: Arena) -> None:
    """A worker is stopped in a long inference, perhaps by two signals."""
    worker = arena.random.choice(arena.workers)
    pid = worker.pid
    arena.device.hold_up(pid, to=True)
    arena.later(HELD_UP_S, lambda: arena.device.hold_up(pid, to=False))
    arena.later(1.0, partial(_stop_held_up, arena, worker, pid))


def _stop_held_up(arena: Arena, worker: Program, pid: int) -> None:
    if worker.well() != pid:
        return
    try:
        attempts = _attempts(arena, arena.in_hand(pid))
    except RedisError:
        return
    arena.when_ended(worker, partial(_check_given_back, arena, worker, attempts))
    worker.send(signal.SIGTERM)
    arena.tally.others["stopped in an inference"] += 1
    if arena.random.random() < 0.5:
        arena.later(0.3, partial(worker.send, signal.SIGTERM, pid))


def _check_given_back(arena: Arena, worker: Program, before: dict[bytes, int]) -> None:
    """A worker that could not finish has given its jobs back, with the attempts that they had."""
    if not worker.was_stopped_uncleanly() or time.monotonic() < arena.trouble_until:
        return
    if "redis does not answer: what is left" in worker.tail():
        return  # its connections were frozen for longer than a stop may take
    try:
        left = arena.in_hand(worker.pid)
        after = _attempts(arena, list(before))
    except RedisError:
        return
    arena.tally.others["jobs given back"] += len(before)
    who = f"process {worker.pid} ({worker.log})"
    if left:
        arena.tally.wrong.append(f"{who} was stopped with {len(left)} jobs in hand")
    if more := sum(after[payload] > before[payload] for payload in before):
        arena.tally.wrong.append(f"{who} has an attempt counted against {more} jobs by its stop")


def _attempts(arena: Arena, payloads: list[bytes]) -> dict[bytes, int]:
    if not payloads:
        return {}
    with arena.servers.client() as client:
        counts = client.hmget(keys.ATTEMPTS, [keys.sha1(payload) for payload in payloads])
    return {one: int(count or 0) for one, count in zip(payloads, counts, strict=True)}


def idle(arena: Arena) -> None:
    """Idle clients sit on a worker's admin port, which must answer a probe all the same."""
    number = arena.random.randrange(len(arena.workers))
    worker, port = arena.workers[number], arena.ports[number]
    crowd = Crowd(port, arena.random.uniform(4, 8), worker.well, arena.tally)
    arena.crowds.append(crowd)
    crowd.start()
    arena.tally.others["idle crowds"] += 1
