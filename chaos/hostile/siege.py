"""Sends hostile cases to a worker, and checks how each ended and how the worker is."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# The modules of mutations register them as they are imported.
from chaos.hostile import messages, segments, texts  # noqa: F401
from chaos.hostile.bystanders import Bystanders
from chaos.hostile.case import (
    IMAGE,
    MASK,
    MAX_PIXELS,
    MESSAGE,
    SEGMENT,
    TEXT,
    Case,
    Mutation,
    encoded,
)
from chaos.hostile.segments import cutting
from harness.fills import fill_grey
from harness.jobs import CANVAS, SIZE
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.wire import DEV_SHM, Kind, Pipeline, page
from harness.workers import OWN, STUB_WORKER, OwnPipeline, Worker

MAX_MEMORY_MB = 1024
BATCH = 100

#: The log's own lines, and those of a traceback.
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ +[\w.]+: |  \| ")
#: Controls, separators and bidirectional overrides: what could make a line look like another.
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass
class Report:
    """What the run found; `wrong` is empty if all is well."""

    cases: int = 0
    good: int = 0
    delivered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    peak_mb: float = 0
    wrong: list[str] = field(default_factory=list)


class Siege:
    """A running worker and what is done to it."""

    def __init__(self, pipeline: Pipeline, worker: Worker, folder: Path, seed: int) -> None:
        self.pipeline = pipeline
        self.worker = worker
        self.rng = random.Random(seed)
        self.bystanders = Bystanders(folder)
        self.report = Report()
        self.redis = pipeline.redis

    def run(self, cases: int) -> Report:
        """Send so many hostile cases; a good job goes before the first and among the others."""
        report = self.report
        self.round([])  # connections, threads and tables are made now
        before = self.vitals()
        while report.cases < cases and len(report.wrong) < 20:
            count = min(BATCH, cases - report.cases)
            self.round([self.case(report.cases + number) for number in range(count)])
            report.cases += count
        if self.worker.poll() is not None:
            report.wrong.append(f"the worker has ended: {self.worker.output[-3000:]}")
            return report
        after = self.vitals()
        report.peak_mb = after["VmHWM"] / 1024
        if report.peak_mb > MAX_MEMORY_MB:
            report.wrong.append(f"the worker needed {report.peak_mb:.0f} MB")
        for vital in ("descriptors", "Threads"):
            if after[vital] > before[vital] + 4:
                report.wrong.append(f"{vital}: {before[vital]} before, {after[vital]} after")
        report.wrong += self.bystanders.harmed()
        report.wrong += self.forged_lines()
        if len(list(self.redis.scan_iter("inpainting:worker:*"))) != 1:
            report.wrong.append("the worker has not kept its one identity")
        return report

    def vitals(self) -> dict[str, int]:
        folder = Path("/proc", str(self.worker.pid))
        lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        numbers = {name: int(lines[name].split()[0]) for name in ("VmHWM", "Threads")}
        return numbers | {"descriptors": len(list((folder / "fd").iterdir()))}

    def case(self, number: int) -> Case:
        rng = self.rng
        image, mask = page(*SIZE, seed=rng.randrange(1000))
        kind: Kind = rng.choice(["long", "short"])
        message = self.pipeline.message(
            image, mask, kind, canvas=CANVAS, request_id=f"hostile-{number}"
        )
        case = Case(number, rng, message, {"image": image, "mask": mask}, kind, self.bystanders)
        case.paths = [DEV_SHM / message[which]["shm_name"] for which in (IMAGE, MASK)]
        if rng.random() < 0.35:
            self.mutate(case, rng.choice(SEGMENT))
        if not case.done or rng.random() < 0.3:
            for _ in range(rng.choice([1, 1, 2])):
                self.mutate(case, rng.choice(MESSAGE))
        if rng.random() < 0.25:
            self.mutate(case, rng.choice(TEXT))
        case.payload = case.payload or encoded(case)
        return case

    def mutate(self, case: Case, mutation: Mutation) -> None:
        try:
            fate = mutation(case)
        except (LookupError, TypeError, AttributeError, ValueError, OSError):
            fate = "either"  # an earlier mutation took away what this one changes
        # Of two mutations, one may undo the other.
        case.fate = fate if not case.done or fate == case.fate == "delivered" else "either"
        case.done.append(mutation.__name__)

    def round(self, cases: list[Case]) -> None:
        """A batch with good jobs among it, and a look at how each ended."""
        good = {}
        with cutting(cases):
            for number, case in enumerate(cases or [None] * 30):
                if number % 10 == 0:
                    image, mask = page(*SIZE, seed=number)
                    kind: Kind = self.rng.choice(["long", "short"])
                    good[self.pipeline.submit(image, mask, kind, canvas=CANVAS)] = image, mask
                if case is not None:
                    self.pipeline.push(case.payload, case.kind)
            self.wait_until_idle()
        if self.worker.poll() is not None:
            return
        for request_id, (image, mask) in good.items():
            self.check_good(request_id, image, mask)
        self.report.good += len(good)
        self.check(cases)
        for path in (path for case in cases for path in case.paths):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(
                missing_ok=True
            )

    def wait_until_idle(self) -> None:
        def idle() -> bool:
            lists = ("inpainting:processing:*", "inpainting:cleanup:*")
            return self.worker.poll() is not None or not (
                self.redis.exists(*self.pipeline.queues.values())
                or any(key for pattern in lists for key in self.redis.scan_iter(pattern, 1000))
            )

        wait_until(idle, "every message is dealt with")

    def check_good(self, request_id: str, image: np.ndarray, mask: np.ndarray) -> None:
        try:
            picture = self.pipeline.fetch(request_id, timeout=1)
        except (OSError, RuntimeError, ValueError) as error:
            self.report.wrong.append(f"a good job: {error}")
            return
        if not np.array_equal(picture, fill_grey(image, mask)):
            self.report.wrong.append(f"a good job: other pixels in {request_id}")

    def check(self, cases: list[Case]) -> None:
        """Each case has a reason on the dead-letter list, with its payload, or a result."""
        dead = Counter[bytes]()
        by_sha1 = {hashlib.sha1(case.payload).hexdigest(): case.payload for case in cases}
        for entry in self.redis.lrange("inpainting:dead", 0, -1):
            about = json.loads(entry)
            if about.get("truncated"):
                raw = by_sha1.get(about["sha1"], about["raw"].encode())
            else:
                raw = base64.b64decode(about.get("raw_base64", "")) or about["raw"].encode()
            dead[raw] += 1
            self.report.reasons[about["reason"]] += 1
            if not about["reason"] or not about["error"] or UNSAFE.search(about["error"]):
                self.report.wrong.append(f"{about['reason']!r}, {about['error']!r}")
            if about["reason"] in ("internal_error", "inference_failed"):
                self.report.wrong.append(f"not foreseen: {about['error']}: {raw[:300]!r}")
            if len(about["error"]) > 500:
                self.report.wrong.append(f"a long error: {about['error'][:200]}")
        for case in cases:
            is_dead = dead[case.payload] > 0
            dead[case.payload] -= 1
            picture = None if is_dead else self.result_of(case)
            if not is_dead and picture is None:
                outcome = "silence"
            else:
                outcome = "dead" if is_dead else "delivered"
            if outcome == "silence" or case.fate not in (outcome, "either"):
                self.report.wrong.append(f"{case.done}: {outcome}: {case.payload[:600]!r}")
            if is_dead and not self.is_told(case):
                self.report.wrong.append(f"{case.done}: unpublished: {case.payload[:300]!r}")
            if outcome == "delivered":
                self.report.delivered += 1
                if any(path.exists() for path in case.paths) and case.fate == "delivered":
                    self.report.wrong.append(f"{case.done}: inputs of a done job are left")
                if picture is not None and case.fate == "delivered":
                    self.check_pixels(case, picture)
        if leftover := +dead:
            self.report.wrong.append(f"dead for no case: {list(leftover)[:3]!r}")
        self.redis.delete("inpainting:dead")
        for key in self.redis.scan_iter("inpainting_result:*", 1000):
            self.redis.delete(key)

    def is_told(self, case: Case) -> bool:
        """Whether the failure is in the request's hash, if the message begins with its request."""
        request_id = f"hostile-{case.number}"
        is_known = case.payload.startswith(b'{"request_id": "%s", ' % request_id.encode())
        if not is_known or case.payload.count(b'"request_id"') > 1:
            return True
        # The failure of a message that is too long is published after it has left the queue.
        key, deadline = f"inpainting_result:{request_id}", time.monotonic() + 5
        while self.redis.hget(key, "status") != b"failed":
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def result_of(self, case: Case) -> np.ndarray | None:
        try:
            request_id = json.loads(case.payload)["request_id"]
        except (ValueError, KeyError, TypeError):
            return None
        fields = self.redis.hgetall(f"inpainting_result:{request_id}")
        if b"inpaint_shm_info" not in fields:
            return None
        info = json.loads(fields[b"inpaint_shm_info"])
        path = DEV_SHM / info["shm_name"]
        picture = np.frombuffer(path.read_bytes(), np.uint8).reshape(info["shape"])
        path.unlink()
        return picture

    def check_pixels(self, case: Case, picture: np.ndarray) -> None:
        image, mask = case.pixels["image"], case.pixels["mask"]
        if not np.array_equal(picture, fill_grey(image, mask)):
            self.report.wrong.append(f"{case.done}: other pixels")

    def forged_lines(self) -> list[str]:
        text = self.worker.log.read_bytes().decode("utf-8", "replace")
        return [
            f"a line of the log: {line[:300]!r}"
            for line in text.removesuffix("\n").split("\n")
            if not LOG_LINE.match(line) or line.startswith("1999-") or UNSAFE.search(line)
        ][:5]


@contextlib.contextmanager
def siege(server: RedisServer, folder: Path, seed: int) -> Iterator[Siege]:
    """A worker with the stub network that is ready to be attacked."""
    environment = {
        "REDIS_URL": server.url,
        "USE_CUDA": "0",
        "RETRY_DELAY_S": "0.01",
        "MAX_ATTEMPTS": "2",
        "MAX_IMAGE_PIXELS": str(MAX_PIXELS),
        "LOG_LEVEL": "DEBUG",
        "SHM_NAME_PREFIX": f"img_shm_{OWN}",
        "PYTHONUTF8": "1",
    }
    with OwnPipeline(server.url) as pipeline:
        pipeline.redis.flushall()
        worker = Worker(STUB_WORKER, environment, folder / "worker.log")
        worker.start()
        attack = None
        try:
            worker.wait_for_line(" takes jobs from ")
            attack = Siege(pipeline, worker, folder, seed)
            yield attack
        finally:
            worker.kill()
            if attack is not None:
                attack.bystanders.close()
