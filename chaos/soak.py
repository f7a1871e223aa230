"""Ten thousand jobs of many sizes through one worker: python -m chaos.soak --jobs 10000

Memory, descriptors and threads of the worker must level off, and shared memory and Redis be as they
were before. The network is the configured one (LAMA_CONFIG_PATH, LAMA_CHECKPOINT_PATH), or with
--tiny one that only fills in the mean. Exits with 1 on any deviation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis

from chaos.jobs import QUEUES
from chaos.programs import Program, Tally
from harness import ROOT
from harness.networks import VARIABLE as NETWORK
from harness.redis_server import RedisServer
from harness.wire import DEV_SHM, Kind, encode, job_message, write_segment

#: Jobs that are under way at any time.
UNDER_WAY = 40

#: Sides of the pictures, in pixels.
SIDES = (16, 200)

#: By how much memory may grow in the second half of the run, in MiB. It is not nothing: the
#: largest pictures may come late, and malloc keeps what it got.
GROWTH_MIB = 32.0

START_TIMEOUT_S = 120.0
JOB_TIMEOUT_S = 120.0

#: What the keys begin with that a worker has while it lives.
LASTING = (b"inpainting:worker", b"inpainting:reaper:", b"inpainting:crews")

#: How long the worker may take to forget what was fetched.
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a process uses at one moment."""

    memory_mib: float
    descriptors: int
    threads: int


def vitals(pid: int) -> Vitals:
    """What /proc says of a process."""
    folder = Path("/proc", str(pid))
    lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return Vitals(
        int(lines["VmRSS"].split()[0]) / 1024,
        len(list((folder / "fd").iterdir())),
        int(lines["Threads"]),
    )


class Soak:
    """Sends jobs, takes their results, and looks at the worker now and then."""

    def __init__(self, client: Any, worker: Program, tag: str, seed: int) -> None:
        self._redis = client
        self._worker = worker
        self._tag = tag
        self._random = np.random.default_rng(seed)
        self.samples: list[Vitals] = []
        self.sizes: set[tuple[int, int]] = set()

    def run(self, jobs: int, pid: int) -> None:
        """Send so many jobs, in the order of their numbers, and wait for all of them."""
        for number in range(jobs + UNDER_WAY):
            if number < jobs:
                self._send(number)
            if number >= UNDER_WAY:
                self._take(number - UNDER_WAY)
            if number % max(1, jobs // 50) == 0:
                self.samples.append(vitals(pid))
        self.samples.append(vitals(pid))

    def wrong(self) -> list[str]:
        """What has not levelled off: the second half of the run against the first."""
        half = len(self.samples) // 2
        first, second = self.samples[half // 2 : half], self.samples[half:]
        found = []
        growth = max(one.memory_mib for one in second) - max(one.memory_mib for one in first)
        if growth > GROWTH_MIB:
            found.append(f"memory grew by {growth:.1f} MiB in the second half")
        # While a segment is read or written there is a descriptor for it, so the fewest count.
        fewest = min(one.descriptors for one in first)
        if (last := min(one.descriptors for one in second[len(second) // 2 :])) > fewest + 2:
            found.append(f"descriptors: {fewest}, later {last}")
        most = max(one.threads for one in first)
        if (last := max(one.threads for one in second)) > most:
            found.append(f"threads: {most}, later {last}")
        return found

    def _send(self, number: int) -> None:
        height, width = (int(side) for side in self._random.integers(*SIDES, 2))
        self.sizes.add((height, width))
        image = self._random.integers(0, 256, (height, width, 3), np.uint8)
        mask = np.zeros((height, width), np.uint8)
        mask[height // 3 : height // 2 + 1, width // 3 : width // 2 + 1] = 255
        image_info, mask_info = (
            write_segment(f"img_shm_{self._tag}{number}{what}", array)
            for what, array in (("img", image), ("mask", mask))
        )
        kind: Kind = "short" if number % 2 else "long"
        message = job_message(f"{self._tag}{number}", image_info, mask_info, kind)
        self._redis.rpush(QUEUES[number % 2], encode(message))

    def _take(self, number: int) -> None:
        key = f"inpainting_result:{self._tag}{number}"
        deadline = time.monotonic() + JOB_TIMEOUT_S
        while not (description := self._redis.hget(key, "inpaint_shm_info")):
            if self._worker.has_ended():
                said = self._worker.tail()
                raise RuntimeError(f"the worker ended before job {number} was done: {said}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no result of job {number} after {JOB_TIMEOUT_S:g} s")
            time.sleep(0.002)
        self._redis.delete(key)
        (DEV_SHM / json.loads(description)["shm_name"]).unlink()


def leftovers(client: Any, tag: str) -> list[str]:
    """Segments of the run that are left, and keys, once what was fetched is forgotten.

    That is after RESULT_TTL_S, a day; here the day is over at once.
    """
    for key in client.scan_iter("inpainting:segments:*"):
        for member in client.zrange(key, 0, -1):
            client.zadd(key, {member: int(time.time()) - 1}, xx=True)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        left = [f"segment {path.name}" for path in DEV_SHM.iterdir() if tag in path.name]
        left += [
            f"key {key.decode()}"
            for key in client.scan_iter(count=1000)
            if not key.startswith(
                (b"inpainting:worker", b"inpainting:reaper:", b"inpainting:crews")
            )
        ]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def main() -> int:
    """Soak and print what the worker used; 1 if something did not level off or is left."""
    parser = argparse.ArgumentParser(prog="python -m chaos.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="do without LaMa")
    options = parser.parse_args()
    tag = f"soak{np.random.default_rng().integers(1 << 32):08x}x"
    tally = Tally()
    with RedisServer() as server, tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "REDIS_URL": server.url,
            "SHM_NAME_PREFIX": f"img_shm_{tag}",
            "REAP_INTERVAL_S": "1",
            NETWORK: "tiny",
            "TINY_SECONDS": "0",  # no worker is killed here
        }
        arguments = ["-m", "harness.launch"] if options.tiny else [str(ROOT / "worker.py")]
        worker = Program("worker", arguments, tally, Path(folder, "log"), environment)
        with redis.Redis.from_url(server.url, protocol=2) as client:
            worker.start()
            try:
                pid = _wait_for(client, worker)
                soak = Soak(client, worker, tag, options.seed)
                began = time.monotonic()
                soak.run(options.jobs, pid)
                elapsed = time.monotonic() - began
                wrong = soak.wrong() + leftovers(client, tag)
                worker.finish()
            finally:
                worker.kill()
                for path in DEV_SHM.iterdir():
                    if tag in path.name:
                        path.unlink(missing_ok=True)
    _print(options.jobs, elapsed, soak)
    wrong += tally.wrong
    print(*(f"WRONG: {one}" for one in wrong), sep="\n", end="\n" if wrong else "")
    return min(len(wrong), 1)


def _wait_for(client: Any, worker: Program) -> int:
    """The worker's process id, once it is ready."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and not worker.has_ended():
        for key in client.scan_iter("inpainting:worker:*"):
            return int(json.loads(client.get(key))["pid"])
        time.sleep(0.05)
    raise TimeoutError(f"the worker is not ready: {worker.tail()}")


def _print(jobs: int, elapsed: float, soak: Soak) -> None:
    print(f"{jobs} jobs of {len(soak.sizes)} sizes in {elapsed:.0f} s")
    print("  done   memory  descriptors  threads")
    for part in range(5):
        at = round(part * (len(soak.samples) - 1) / 4)
        now = soak.samples[at]
        print(
            f"{part * 25:5}%  {now.memory_mib:4.0f} MiB  {now.descriptors:11}  {now.threads:7}",
        )


if __name__ == "__main__":
    sys.exit(main())
