"""The run: everything is started, disturbed at random, left in peace, and accounted for."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from chaos.account import Account, count_leftovers, is_idle, jobs_account, remove_unsent
from chaos.jobs import Jobs
from chaos.producer import Journal
from chaos.programs import Program, Tally
from chaos.proxy import Proxy
from core import keys
from core.faults import VARIABLE, Fault
from demo.redis_server import RedisServer

TTL_S = 1.5
SETTINGS = {
    "USE_CUDA": "0",
    "HEARTBEAT_INTERVAL_S": "0.3",
    "HEARTBEAT_TTL_S": str(TTL_S),
    "REAP_INTERVAL_S": "0.5",
    "RETRY_DELAY_S": "0.2",
    "MAX_ATTEMPTS": "5",
    "SHUTDOWN_GRACE_S": "5",
}

#: Jobs per second: more than the workers get done, so that there is always something to lose.
RATE = 60.0

#: How long everything may take to settle once it is left in peace, in seconds.
PATIENCE_S = 90.0

#: What the log of no worker may say.
ALARMS = ("Traceback", "failed unexpectedly", "recovery failed", "never retrieved", "CRITICAL")


class Arena:
    """All programs of a run and the network between workers and Redis."""

    def __init__(self, seed: int, workers: int, folder: Path) -> None:
        self.tally = Tally()
        self.jobs = Jobs(f"chaos{random.getrandbits(32):08x}x", seed)
        self._random = random.Random(seed)  # noqa: S311 - it is to be the same for a seed
        self._folder = folder
        self._journal = Journal(folder / "journal")
        self._server = RedisServer(append_only=True, options={"appendfsync": "always"})
        self._proxy = Proxy(self._server.port)
        self._count = workers
        self._workers: list[Program] = []
        self._neighbours: dict[str, Program] = {}
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._is_down = False
        self._is_calm = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything is started, and is gone afterwards whatever happens."""
        with self._server, self._proxy:
            try:
                self._start()
                yield
            finally:
                for program in (*self._workers, *self._neighbours.values()):
                    program.kill_for_good()
                for name in self.jobs.segments():
                    (Path("/dev/shm") / name).unlink(missing_ok=True)  # noqa: S108

    def _start(self) -> None:
        common = [self._server.url, self.jobs.tag, str(self.jobs.seed)]
        extra = {"producer": [str(self._journal.path), str(RATE)], "consumer": []}
        for kind, arguments in extra.items():
            self._neighbours[kind] = Program(
                kind,
                ["-m", f"chaos.{kind}", *common, *arguments],
                self.tally,
                self._folder / f"{kind}.log",
            )
            self._neighbours[kind].start()
        for number in range(self._count):
            self._workers.append(self._worker(f"worker-{number}"))
            self._workers[-1].start(**self._fault())

    def _worker(self, name: str, **settings: str) -> Program:
        environment = {
            **SETTINGS,
            "REDIS_URL": f"redis://127.0.0.1:{self._proxy.port}",
            "SHM_NAME_PREFIX": f"img_shm_{self.jobs.tag}",
            **settings,
        }
        log = self._folder / f"{name}.log"
        return Program("worker", ["-m", "chaos.worker"], self.tally, log, environment)

    def _fault(self) -> dict[str, str]:
        """Perhaps a place at which a new worker is to die."""
        if self._is_calm or self._random.random() < 0.4:
            return {}
        fault = self._random.choice(list(Fault))
        return {VARIABLE: f"{fault}:{self._random.choice([1, 1, 2, 5])}"}

    # -- disturbing -----------------------------------------------------------------------------

    def disturb(self, seconds: float) -> None:
        """Do something to somebody every second or so; first of all, kill a worker."""
        deadline = time.monotonic() + seconds
        deeds = {
            self._kill_worker: 5,
            self._stop_worker: 2,
            self._freeze_worker: 6,
            self._kill_neighbour: 2,
            self._kill_redis: 1,
            self._restart_redis: 1,
            self._harm_network: 8,
        }
        self._look_after(1.0)
        self._kill_worker()
        while time.monotonic() < deadline:
            self._look_after(self._random.uniform(0.2, 2.2))
            (deed,) = self._random.choices(list(deeds), list(deeds.values()))
            deed()

    def _look_after(self, seconds: float) -> None:
        """Let time pass; start again what has ended, and do what is due."""
        deadline = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            due = [one for one in self._due if one[0] <= now]
            self._due = [one for one in self._due if one[0] > now]
            for _, deed in due:
                deed()
            for program in (*self._workers, *self._neighbours.values()):
                if program.has_ended():
                    self.tally.restarts[program.kind] += 1
                    program.start(**(self._fault() if program in self._workers else {}))
            if now > deadline:
                return
            time.sleep(0.02)

    def _later(self, seconds: float, deed: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + seconds, deed))

    def _kill_worker(self) -> None:
        self._random.choice(self._workers).send(signal.SIGKILL)

    def _stop_worker(self) -> None:
        self._random.choice(self._workers).send(signal.SIGTERM)

    def _freeze_worker(self) -> None:
        worker = self._random.choice(self._workers)
        worker.send(signal.SIGSTOP)
        self.tally.others["worker frozen"] += 1
        lives = self._random.choice([0.3, 1.5, 2, 4])  # of a heartbeat
        self._later(lives * TTL_S, lambda: worker.send(signal.SIGCONT))

    def _kill_neighbour(self) -> None:
        self._random.choice(list(self._neighbours.values())).send(signal.SIGKILL)

    def _kill_redis(self) -> None:
        if not self._is_down:
            self.tally.kills["redis"] += 1
            self._server.kill()
            self._bring_redis_back()

    def _restart_redis(self) -> None:
        if not self._is_down:
            self._server.stop()
            self._bring_redis_back()

    def _bring_redis_back(self) -> None:
        self._is_down = True
        self._later(self._random.choice([0.1, 1, 3]), self._start_redis)

    def _start_redis(self) -> None:
        self.tally.restarts["redis"] += 1
        self._server.start()
        self._is_down = False

    def _harm_network(self) -> None:
        share = self._random.choice([0.2, 0.5, 1.0])
        harm = self._random.choice(["cut", "frozen", "late", "reply lost"])
        self.tally.others[f"network {harm}"] += 1
        if harm == "cut":
            self._proxy.cut(self._random, share)
        elif harm == "frozen":
            # Longer than a heartbeat lives, and longer than the worker waits for an answer.
            self._proxy.freeze(self._random, share, self._random.choice([0.3, 1, 3, 9]))
        elif harm == "late":
            self._proxy.answer_late(self._random, share, self._random.choice([0.1, 0.5, 1, 6]))
        else:
            self._proxy.lose_replies(self._random, share)

    # -- settling -------------------------------------------------------------------------------

    def settle(self) -> Account:
        """Leave everything in peace until it is done, stop it, and make the account."""
        self._is_calm = True
        self._proxy.heal()
        self._due = [(0.0, deed) for _, deed in self._due]  # thaw, and start Redis, now
        self._look_after(0.1)
        self._neighbours.pop("producer").stop()
        with redis.Redis.from_url(self._server.url, protocol=2) as client:
            deadline = time.monotonic() + PATIENCE_S
            while not is_idle(client):
                if time.monotonic() > deadline:
                    self.tally.wrong.append(f"not done after {PATIENCE_S:g} s in peace")
                    break
                self._look_after(0.05)
            for program in (*self._workers, *self._neighbours.values()):
                program.stop()
            begun, sent = self._journal.read()
            account = jobs_account(client, self.jobs, begun, sent)
            remove_unsent(client, self.jobs, begun - sent)
            self._expire_dead(client)
            count_leftovers(account, client, self.jobs)
        account.wrong += self.tally.wrong + self._alarms()
        return account

    def _expire_dead(self, client: redis.Redis) -> None:
        """A last worker removes dead jobs with their inputs, and what others left."""
        # Those that died when they were stopped count as alive until their heartbeats expire.
        _wait(lambda: not _count_alive(client))
        last = self._worker("worker-last", DEAD_TTL_S="0.001", REAP_INTERVAL_S="0.2")
        last.start()
        _wait(lambda: _count_alive(client) == 1)
        _wait(lambda: not (client.exists(keys.DEAD) or self.jobs.segments() or _has_others(client)))
        last.stop()

    def _alarms(self) -> list[str]:
        return [
            f"{log.name}: {line.strip()}"
            for log in sorted(self._folder.glob("*.log"))
            for line in log.read_text("utf-8", "replace").splitlines()
            if any(alarm in line for alarm in ALARMS)
        ][:20]


def _wait(condition: Callable[[], bool]) -> None:
    """Until it holds or patience is at its end: the account says what is left."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def _count_alive(client: redis.Redis) -> int:
    return sum(1 for _ in client.scan_iter(keys.heartbeat("*"), 1000))


def _has_others(client: redis.Redis) -> bool:
    """Whether a worker is known besides the last one."""
    known = client.scan_iter(keys.workers("*"), 1000)
    return sum(int(client.scard(key)) for key in known) > 1
