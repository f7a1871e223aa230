"""The run: starts all programs, restarts those that end, and disturbs them at random."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from chaos.account import Evidence
from chaos.jobs import Jobs
from chaos.probe import Crowd, free_ports
from chaos.programs import Program, Tally
from chaos.proxy import Proxy
from chaos.sender import Journal
from chaos.servers import Servers
from chaos.settings import GRACES_S, SETTINGS
from core import keys
from core.faults import VARIABLE, Fault
from harness.device import VARIABLE as DEVICE
from harness.device import Device
from harness.networks import VARIABLE as NETWORK
from harness.wire import DEV_SHM

#: Jobs per second: more than the workers get done, so that there is always something to lose.
RATE = 60.0

#: Until a worker is started again that has ended by itself, in seconds.
RESTART_PAUSE_S = 0.5

Disturbance = Callable[["Arena"], None]


class Arena:
    """All programs of a run and the network between them and Redis.

    Workers reach Redis through `network`, which misbehaves; sender and receiver through a proxy
    that does not, so that they too find a new master.
    """

    def __init__(
        self, seed: int, workers: int, folder: Path, *, has_replica: bool, has_points: bool
    ) -> None:
        self.tally = Tally()
        self.jobs = Jobs(f"chaos{random.getrandbits(32):08x}x", seed)
        self.random = random.Random(seed)  # noqa: S311 - it is to be the same for a seed
        self.device = Device(folder / "device")
        self.evidence = Evidence()
        self.servers = Servers(with_replica=has_replica)
        self.network = Proxy(self.servers.master.port)
        self.workers: list[Program] = []
        self.neighbours: dict[str, Program] = {}
        self.guests: list[Program] = []  # workers that are not started again
        self.crowds: list[Crowd] = []
        self.ports = free_ports(workers)
        self.trouble_until = 0.0  # up to then Redis may be out of a worker's reach
        self._quiet = Proxy(self.servers.master.port)
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self._has_points = has_points
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._when_ended: dict[Program, Callable[[], None]] = {}
        self._guests = 0
        self._is_calm = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start everything; stop and remove it at the end, also after an error."""
        with self.servers, self.network, self._quiet:
            try:
                self._start()
                yield
            finally:
                for program in (*self.workers, *self.guests, *self.neighbours.values()):
                    program.kill()
                for name in self.jobs.segments():
                    (DEV_SHM / name).unlink(missing_ok=True)

    def _start(self) -> None:
        url = f"redis://127.0.0.1:{self._quiet.port}"
        common = [url, self.jobs.tag, str(self.jobs.seed)]
        extra = {"sender": [str(self.journal.path), str(RATE)], "receiver": []}
        for kind, arguments in extra.items():
            self.neighbours[kind] = Program(
                kind,
                ["-m", f"chaos.{kind}", *common, *arguments],
                self.tally,
                self.folder / f"{kind}.log",
            )
            self.neighbours[kind].start()
        for number, port in enumerate(self.ports):
            # Every second one has a device that computes by itself, and so two batches on it.
            staging = {"TINY_STAGING": "1"} if number % 2 else {}
            settings = {"ADMIN_PORT": str(port), **staging}
            self.workers.append(self.worker(f"worker-{number}", settings))
            self.workers[-1].start(**self._extra())

    def worker(
        self,
        name: str,
        settings: Mapping[str, str],
        kind: str = "worker",
        behind: tuple[str, ...] = (),
    ) -> Program:
        """A worker that is not started yet."""
        environment = {
            **SETTINGS,
            NETWORK: "tiny",
            DEVICE: str(self.folder / "device"),
            "REDIS_URL": f"redis://127.0.0.1:{self.network.port}",
            "SHM_NAME_PREFIX": f"img_shm_{self.jobs.tag}",
            **settings,
        }
        log = self.folder / f"{name}.log"
        return Program(kind, ["-m", "harness.launch"], self.tally, log, environment, behind)

    def _extra(self) -> dict[str, str]:
        """The grace time of a new worker, and in some cases a fault point."""
        grace = {"SHUTDOWN_GRACE_S": self.random.choice(GRACES_S)}
        if self._is_calm or not self._has_points or self.random.random() < 0.4:
            return grace
        fault = self.random.choice(list(Fault))
        return {**grace, VARIABLE: f"{fault}:{self.random.choice([1, 1, 2, 5])}"}

    # -- disturbing -----------------------------------------------------------------------------

    def disturb(self, seconds: float, disturbances: Mapping[Disturbance, float]) -> None:
        """Disturb something every second or so: each thing once, then at random by weight."""
        deadline = time.monotonic() + seconds
        waiting = list(disturbances)[1:]
        self.random.shuffle(waiting)
        waiting += list(disturbances)[:1]
        self.look_after(1.0)
        while (left := deadline - time.monotonic()) > 0:
            if waiting:
                waiting.pop()(self)
            elif disturbances:
                self.random.choices(list(disturbances), list(disturbances.values()))[0](self)
            self.look_after(min(left, self.random.uniform(0.2, 2.2)))

    def look_after(self, seconds: float) -> None:
        """Wait; meanwhile restart programs that have ended, and do what is due."""
        deadline = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            due = [one for one in self._due if one[0] <= now]
            self._due = [one for one in self._due if one[0] > now]
            for _, action in due:
                action()
            self.guests = [guest for guest in self.guests if not self._has_ended(guest)]
            for program in self._lasting():
                if self._has_ended(program):
                    self.tally.restarts[program.kind] += 1
                    pause_s = RESTART_PAUSE_S if program.status == 1 else 0.0
                    self.later(pause_s, partial(self._restart, program))
            if now > deadline:
                return
            time.sleep(0.02)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after a delay."""
        self._due.append((time.monotonic() + seconds, action))

    def when_ended(self, program: Program, action: Callable[[], None]) -> None:
        """Do something as soon as the process of a program has ended."""
        self._when_ended[program] = action

    def expect_trouble(self, seconds: float) -> None:
        """Note that Redis may be out of reach; beyond a heartbeat, all workers may count as dead.

        What is being sent may take some seconds more.
        """
        self.trouble_until = max(self.trouble_until, time.monotonic() + seconds + 6)
        if seconds >= 0.5:
            self.tally.harmed.update(worker.pid for worker in self.workers)

    def invite(self, behind: tuple[str, ...], **settings: str) -> Program:
        """Start a worker that is not started again."""
        self._guests += 1
        guest = self.worker(f"guest-{self._guests}", settings, "private worker", behind)
        guest.start()
        self.guests.append(guest)
        return guest

    def in_hand(self, pid: int) -> list[bytes]:
        """The payloads that are in the processing lists of a process."""
        with self.servers.client() as client:
            patterns = [keys.processing(f"*-{pid}-*", kind) for kind in keys.Kind]
            found = [key for pattern in patterns for key in client.scan_iter(pattern, 1000)]
            listed = [client.lrange(key, 0, -1) for key in found]
        return [payload for payloads in listed for payload in payloads]

    def follow_master(self) -> None:
        """Route new connections to the current master."""
        self.network.target = self._quiet.target = self.servers.master.port

    def _lasting(self) -> list[Program]:
        return [*self.workers, *self.neighbours.values()]

    def _has_ended(self, program: Program) -> bool:
        if not program.has_ended():
            return False
        if action := self._when_ended.pop(program, None):
            action()
        return True

    def _restart(self, program: Program) -> None:
        if program in self._lasting():
            program.start(**(self._extra() if program in self.workers else {}))

    # -- calm -----------------------------------------------------------------------------------

    def calm_down(self) -> None:
        """End all disturbances: repair the network, end the crowds, and do at once what is due."""
        self._is_calm = True
        self.network.heal()
        for crowd in self.crowds:
            crowd.end()
        self._due = [(0.0, action) for _, action in self._due]
        self.look_after(0.1)

    def stop_all(self) -> None:
        """Stop every program that still runs."""
        for program in (*self._lasting(), *self.guests):
            program.finish()
