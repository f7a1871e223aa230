"""What goes wrong with workers, and what reapers do."""

from __future__ import annotations

import time

from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
)

from core import keys
from core.broker.connection import Link
from core.broker.queues import Queues
from core.claims import Claim
from core.identity import Identity, crew_of
from core.keys import Kind
from core.recovery.recovery import Recovery
from tests.core.histories.actors import NAMESPACE, Pass, Worker
from tests.core.histories.work import Work
from tests.core.histories.world import INDEX, KINDS, WORKERS

ELSEWHERE = "boot-2"


class Mishaps(Work):
    """The rules of crashes, late heartbeats, vanished namespaces and reapers."""

    @rule(at=WORKERS)
    def a_worker_gives_everything_back_and_ends(self, at: int) -> None:
        """As after a device fault, a second signal, or at the end of the grace time."""
        worker = self.workers[at]
        if worker.stalled is not None:
            self.run(worker.stalled.die())

        async def end() -> None:
            recovery = Recovery(worker.settings, worker.identity, Link(worker.settings.redis_url))
            await recovery.give_back_own()
            await recovery.close()
            await worker.queues.deregister()
            await worker.queues.close()

        self.run(end())
        self.workers[at] = self.new_worker()

    @precondition(lambda self: self.has_queued())
    @rule(kind=KINDS, count=st.integers(1, 2))
    def a_worker_elsewhere_vanishes_with_its_shared_memory(self, kind: Kind, count: int) -> None:
        """It was the last of its namespace, for so long that the next pass dissolves that."""
        digest = crew_of(self.settings.queues, ELSEWHERE).kinship
        number = self.number()
        worker = f"host-{number}-{digest}{number:08x}"
        queues = Queues(self.settings, Identity(worker, ELSEWHERE, "host", number, 0))

        async def live_and_die() -> list[Claim]:
            await queues.register()
            if claims := await queues.take(kind, count):
                await queues.enter(claims)
            await queues.close()
            return claims

        for claim in self.run(live_and_die()):
            self.order.setdefault(claim.payload, self.number())
        self.redis.delete(keys.heartbeat(worker))
        self.redis.hset(keys.CREWS, f"{ELSEWHERE} {digest} seen", 1)

    @rule(at=WORKERS)
    def a_worker_crashes_and_a_new_one_starts(self, at: int) -> None:
        worker = self.workers[at]
        self.dead_workers.append(worker.identity.worker)
        if worker.stalled is not None:
            self.run(worker.stalled.die())
        self.run(worker.queues.close())
        self.redis.delete(keys.heartbeat(worker.identity.worker))
        self.workers[at] = self.new_worker()

    @precondition(lambda self: self.dead_workers and self.has_queued())
    @rule(index=INDEX, kind=KINDS)
    def the_claim_of_a_dead_worker_arrives_late(self, index: int, kind: Kind) -> None:
        """The network held it back until everything that the worker left was recovered."""
        self.move_unheard(self.dead_workers[index % len(self.dead_workers)], kind)

    @rule(at=WORKERS)
    def a_heartbeat_is_late(self, at: int) -> None:
        self.redis.delete(keys.heartbeat(self.workers[at].identity.worker))

    @rule(at=WORKERS)
    def a_living_worker_is_taken_for_dead(self, at: int) -> None:
        self.a_heartbeat_is_late(at)
        self.reap(self.workers[1 - at])

    @precondition(lambda self: self.hands("written"))
    @rule(at=WORKERS, kind=KINDS)
    def a_frozen_worker_thaws_and_claims_again(self, at: int, kind: Kind) -> None:
        self.a_living_worker_is_taken_for_dead(at)
        self.jobs_are_claimed(at, kind, 2)

    @rule(at=WORKERS)
    def a_worker_finds_its_heartbeat_gone_and_registers_again(self, at: int) -> None:
        self.run(self.workers[at].queues.register())

    # -- reapers --------------------------------------------------------------------------------

    @rule(at=WORKERS)
    def a_reaper_makes_a_pass(self, at: int) -> None:
        self.reap(self.workers[at])

    @rule(at=WORKERS, calls=st.integers(1, 14))
    def a_reaper_dies_half_way(self, at: int, calls: int) -> None:
        self.reap(self.workers[at], calls)

    @precondition(lambda self: not all(worker.stalled for worker in self.workers))
    @rule(at=WORKERS, calls=st.integers(1, 14))
    def a_reaper_stalls_half_way(self, at: int, calls: int) -> None:
        worker = self.workers[at]
        if worker.stalled is not None:
            return

        async def start() -> Pass | None:
            running = Pass(worker, calls, stalls=True)
            return None if await running.start() else running

        worker.stalled = self.run(start())

    @precondition(lambda self: any(worker.stalled for worker in self.workers))
    @rule(at=WORKERS)
    def a_stalled_reaper_goes_on(self, at: int) -> None:
        worker = self.workers[at]
        if worker.stalled is not None:
            self.run(worker.stalled.go_on())
            worker.stalled = None

    def reap(self, worker: Worker, calls: int | None = None) -> None:
        async def one_pass() -> None:
            await Pass(worker, calls).start()

        self.run(one_pass())

    @rule(index=INDEX)
    def the_time_of_a_result_is_over(self, index: int) -> None:
        members = self.redis.zrangebyscore(keys.segments(NAMESPACE), 1, "+inf")
        if members:
            member = members[index % len(members)]
            self.expire(member)

    def expire(self, member: bytes) -> None:
        self.redis.zadd(keys.segments(NAMESPACE), {member: int(time.time()) - 1}, xx=True)
        self.expired.add(member.decode().split(" ")[0])
