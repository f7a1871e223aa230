"""Hostile messages and hostile segments for a running worker: python -m chaos.hostile --cases 10000

Starts a Redis server and a worker with the stub network, sends mutated jobs mixed with good ones,
and checks that the worker takes no harm: it lives on with its memory, threads and descriptors, does
every good job, gives every bad one a reason on the dead list, forges no line of its log, and opens
or removes nothing that no message may name. The same seed makes the same cases.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import hashlib
import json
import os
import random
import re
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.fills import GREY
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.wire import DEV_SHM, Json, Kind, Pipeline, page
from harness.workers import OWN, STUB_WORKER, OwnPipeline, Worker

#: What becomes of a case. "either" is where an independent answer would repeat the worker's code.
Fate = Literal["dead", "delivered", "either"]

CANVAS = (64, 96)
SIZE = (60, 90)
MAX_PIXELS = 1 << 18
MAX_MEMORY_MB = 1024
BATCH = 100
IMAGE, MASK = "preprocessed_img_shm_info", "preprocessed_mask_shm_info"
FOREIGN_UID = 54321

#: The log's own lines, and those of a traceback.
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ +[\w.]+: |  \| ")
#: Controls, separators and bidirectional overrides: what could make a line look like another.
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
FORGED = "1999-12-31 23:59:59,999 INFO    core.flow.pipeline: all is well"


@dataclass
class Case:
    """A message and what its segments were made into."""

    number: int
    rng: random.Random
    message: Json
    pixels: dict[str, np.ndarray]
    kind: Kind
    bystanders: Bystanders
    fate: Fate = "delivered"
    payload: bytes = b""
    done: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)

    def path(self, which: str) -> Path:
        return self.paths[which == MASK]

    def info(self) -> tuple[str, Json]:
        which = self.rng.choice([IMAGE, MASK])
        return which, self.message[which]


class Bystanders:
    """Files that no job owns; each access to them is noticed by the kernel (inotify)."""

    IN_ACCESS, IN_OPEN, IN_DELETE_SELF, IN_MODIFY = 0x1, 0x20, 0x400, 0x2

    def __init__(self, folder: Path) -> None:
        self.outside = folder / "outside"
        self.allowed = f"img_shm_{OWN}bystander"
        self.foreign = f"other_shm_{OWN}bystander"
        self.semaphore = f"sem.shm_{OWN}bystander"
        self.result = f"img_shm_{OWN}host-1-{'0a' * 6}-{'0b' * 6}-7"
        names = (self.allowed, self.foreign, self.semaphore, self.result)
        self.files = [self.outside, *(DEV_SHM / name for name in names)]
        for number, path in enumerate(self.files):
            path.write_bytes(self._content(number))
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watch = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._watch >= 0
        events = self.IN_ACCESS | self.IN_OPEN | self.IN_DELETE_SELF | self.IN_MODIFY
        self._watched = {
            self._libc.inotify_add_watch(self._watch, os.fsencode(path), events): path
            for path in self.files
        }
        assert min(self._watched) > 0
        # The watch works: this access of our own is seen.
        self.outside.read_bytes()
        assert self.touched() == {str(self.outside)}

    @staticmethod
    def _content(number: int) -> bytes:
        return bytes([number + 1]) * (CANVAS[0] * CANVAS[1] * 3)

    def touched(self) -> set[str]:
        """The files that were opened, read, written or removed since the last call."""
        seen = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._watch, 1 << 16):
                while data:
                    number, _, _, length = struct.unpack_from("iIII", data)
                    seen.add(str(self._watched[number]))
                    data = data[16 + length :]
        return seen

    def harmed(self) -> list[str]:
        """What is not as it was; to be called once, at the end."""
        harm = [f"{path} was opened or removed" for path in sorted(self.touched())]
        for number, path in enumerate(self.files):
            if not path.exists() or path.read_bytes() != self._content(number):
                harm.append(f"{path} was changed")
        return harm

    def close(self) -> None:
        os.close(self._watch)
        for path in self.files:
            path.unlink(missing_ok=True)


# -- mutations of the message -----------------------------------------------------------------

Mutation = Callable[[Case], Fate]
MESSAGE: list[Mutation] = []
SEGMENT: list[Mutation] = []
TEXT: list[Mutation] = []


def strange(rng: random.Random) -> Any:
    """A value that is rarely what a field expects."""
    return rng.choice(
        [
            None, True, False, 0, -1, 1.5, 1e308, 2**31, 2**63, -(2**64),
            10**4299, "", "text", "\0", "\ud800", [], {}, [[]], [None], {"a": None}, [1, 2],
            [1, 2, 3, 4], [2**62] * 3, [-1, -1, -1], [0] * 4, ["1"] * 2, "9" * 5000,
            "x" * 2000, nested(rng.randrange(1, 500)), [1.0, 2.0],
        ]
    )  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def _message(mutation: Mutation) -> Mutation:
    MESSAGE.append(mutation)
    return mutation


def _segment(mutation: Mutation) -> Mutation:
    SEGMENT.append(mutation)
    return mutation


def _text(mutation: Mutation) -> Mutation:
    TEXT.append(mutation)
    return mutation


@_message
def field_replaced(case: Case) -> Fate:
    case.message[case.rng.choice(sorted(case.message))] = strange(case.rng)
    return "either"


@_message
def segment_field_replaced(case: Case) -> Fate:
    _, info = case.info()
    info[case.rng.choice(sorted(info))] = strange(case.rng)
    return "either"


@_message
def element_replaced(case: Case) -> Fate:
    which = case.rng.choice(["original_size", "padding_info", "shape"])
    values = case.message.get(which) or case.info()[1].get("shape")
    if isinstance(values, list) and values:
        values[case.rng.randrange(len(values))] = strange(case.rng)
    return "either"


@_message
def field_missing(case: Case) -> Fate:
    del case.message[case.rng.choice(sorted(case.message))]
    return "dead"


@_message
def segment_field_missing(case: Case) -> Fate:
    _, info = case.info()
    if info:
        del info[case.rng.choice(sorted(info))]
    return "dead"


@_message
def unknown_fields(case: Case) -> Fate:
    case.message |= {"\u202e": nested(100), "shm_name": case.bystanders.allowed, "": None}
    return "delivered"


@_message
def megabyte(case: Case) -> Fate:
    name = case.rng.choice(["image_id", "request_id", "filler"])
    case.message[name] = "x" * (1_000_000)  # within MAX_MESSAGE_BYTES
    return "delivered" if name == "filler" else "dead"


@_message
def eight_mebibytes(case: Case) -> Fate:
    case.message["filler"] = "x" * (8 << 20)
    return "dead"


@_message
def forging_text(case: Case) -> Fate:
    start = case.rng.choice(["\n", "\r\n", "\r", "\x1b[2K\r", "\x0b", "\x85", "\u2028", "\u202e\n"])
    end = case.rng.choice(["", "\n", "\x1b]0;title\x07", "\u2066", "\u202e", "\u200f", "\x00"])
    case.message["image_id"] = f"{start}{FORGED}{end}"
    case.message["request_id"] = f"{case.number}{start}{FORGED}{end}"
    return "delivered"


@_message
def bidirectional_text(case: Case) -> Fate:
    case.message["request_id"] = f"{case.number}\u202e\u2067dlrow olleh\u2069"
    # A warning repeats the request id of a job that is done.
    case.message["is_long"] = case.kind != "long"
    return "delivered"


@_message
def refused_name(case: Case) -> Fate:
    _, info = case.info()
    there = case.bystanders
    up = f"img_shm_{OWN}/../{there.foreign}"
    info["shm_name"] = case.rng.choice(
        [
            there.foreign, there.semaphore, there.result, str(there.outside), up, "..", ".", "/",
            f"../..{there.outside}", f"/{there.allowed}", f"./{there.allowed}",
            f"{there.allowed}\0",
            f"img_shm_{OWN}..", f"{there.allowed}\n", "img_shm_/", "\u202e", "img_shm_é", "x" * 255,
            f"/dev/shm/{there.allowed}", f"img_shm_{'y' * 300}", "psm_\ud800",
        ]
    )  # fmt: skip
    return "dead"


@_message
def original_elsewhere(case: Case) -> Fate:
    there = case.bystanders
    name = case.rng.choice([there.foreign, there.semaphore, there.result, "../x", 7, None])
    case.message["original_shm_info"] = {
        "shm_name": name,
        "shape": [*SIZE, 3],
        "dtype": "uint8",
        "size": SIZE[0] * SIZE[1] * 3,
    }
    return "delivered"


@_message
def original_strange(case: Case) -> Fate:
    value = case.message["original_shm_info"] = strange(case.rng)
    return "either" if value == "\ud800" else "delivered"  # half of the time that is no UTF-8


@_message
def sizes_disagree(case: Case) -> Fate:
    _, info = case.info()
    change = case.rng.choice(["size", "dtype", "shape", "swapped", "channels"])
    if change == "size":
        info["size"] = case.rng.choice([0, -1, info["size"] - 1, info["size"] + 1, 2**70])
    elif change == "dtype":
        info["dtype"] = case.rng.choice(
            ["float64", "object", "O", "U8", "int8,(1000000,1000000)u1", "uint8 ", ">f8", "V1"]
        )
    elif change == "shape":
        info["shape"] = [1 << 40, 1 << 40, 3]
        info["size"] = 3 << 80
    elif change == "swapped":
        info["shape"] = [CANVAS[1], CANVAS[0], *info["shape"][2:]]
    else:
        shape, item = [*CANVAS, 10**4299], case.rng.choice(["uint8", "float64"])
        info |= {"shape": shape, "dtype": item, "size": 1}
    return "dead"


@_message
def huge_original_size(case: Case) -> Fate:
    case.message["original_size"] = case.rng.choice(
        [[MAX_PIXELS, 2], [10**4000, 10**4000], [2**31, 2**31], [MAX_PIXELS + 1, 1]]
    )
    return "dead"


@_message
def extreme_original_size(case: Case) -> Fate:
    case.message["original_size"] = case.rng.choice([[MAX_PIXELS, 1], [1, MAX_PIXELS], [1, 1]])
    return "either"


@_message
def padding_without_picture(case: Case) -> Fate:
    case.message["padding_info"] = case.rng.choice(
        [[64, 0, 0, 0], [32, 0, 32, 0], [0, 96, 0, 0], [10**4200] * 4, [0, 2**63, 0, 2**63]]
    )
    return "dead"


@_message
def one_segment_for_both(case: Case) -> Fate:
    case.message[MASK]["shm_name"] = case.message[IMAGE]["shm_name"]
    return "either"


@_message
def result_like_input_of_another_prefix(case: Case) -> Fate:
    case.message[IMAGE]["shm_name"] = f"psm_{OWN}host-1-{'0a' * 6}-{'0b' * 6}-7"
    return "dead"  # nothing is there


# -- mutations of the text: they have the last word, `payload` is set ------------------------


def encoded(case: Case) -> bytes:
    return json.dumps(case.message, ensure_ascii=case.rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )


@_text
def not_a_number(case: Case) -> Fate:
    literal = case.rng.choice([b"NaN", b"Infinity", b"-Infinity"])
    case.payload = encoded(case)[:-1] + b', "x": ' + literal + b"}"
    return "dead"


@_text
def truncated_text(case: Case) -> Fate:
    whole = encoded(case)
    case.payload = whole[: case.rng.randrange(1, len(whole))]
    return "dead"


@_text
def bytes_changed(case: Case) -> Fate:
    whole = bytearray(encoded(case))
    for _ in range(case.rng.randrange(1, 4)):
        whole[case.rng.randrange(len(whole))] = case.rng.randrange(256)
    case.payload = bytes(whole)
    return "either"


@_text
def deep_text(case: Case) -> Fate:
    opening, closing = case.rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
    depth = case.rng.choice([900, 980, 985, 990, 995, 1000, 20_000])
    value = opening * depth + b"1" + closing * (depth if case.rng.random() < 0.8 else 0)
    name = case.rng.choice(["request_id", "image_id", "padding_info", IMAGE]).encode()
    case.payload = encoded(case)[:-1] + b', "' + name + b'": ' + value + b"}"
    return "dead"


@_text
def duplicate_keys(case: Case) -> Fate:
    """The last one counts, for whoever judges the message as for whoever reads the segments."""
    first = {IMAGE: {"shm_name": case.bystanders.allowed}, "is_long": None}
    case.payload = json.dumps(first).encode()[:-1] + b", " + encoded(case)[1:]
    return "delivered"


@_text
def no_object(case: Case) -> Fate:
    number = b"%d" % case.number
    case.payload = case.rng.choice(
        [
            number, b'"%s"' % number, b"[%s]" % number, b"\xff" + number,
            b"\xef\xbb\xbf{}" + number,
            number + b"\n" + FORGED.encode(), b" " * (1 << 20) + number, b"1" * 5000 + number,
            b"\x00" * 10 + number, b'{"request_id": "%s"}' % number,
        ]
    )  # fmt: skip
    return "dead"


# -- mutations of the segments ----------------------------------------------------------------


def _which(case: Case) -> tuple[str, Path]:
    which = case.rng.choice([IMAGE, MASK])
    return which, case.path(which)


@_segment
def missing(case: Case) -> Fate:
    _which(case)[1].unlink()
    return "dead"


@_segment
def too_small(case: Case) -> Fate:
    _, path = _which(case)
    os.truncate(path, case.rng.choice([0, 1, path.stat().st_size - 1]))
    return "dead"


@_segment
def larger(case: Case) -> Fate:
    _, path = _which(case)
    os.truncate(path, case.rng.choice([path.stat().st_size + 4096, 1 << 40]))
    return "delivered"


@_segment
def a_link(case: Case) -> Fate:
    _, path = _which(case)
    path.unlink()
    there = case.bystanders
    path.symlink_to(case.rng.choice([there.outside, DEV_SHM / there.allowed, Path("/dev/zero")]))
    return "dead"


@_segment
def a_folder(case: Case) -> Fate:
    _, path = _which(case)
    path.unlink()
    path.mkdir()
    return "dead"


@_segment
def a_fifo(case: Case) -> Fate:
    _, path = _which(case)
    path.unlink()
    os.mkfifo(path)
    return "dead"


@_segment
def a_socket(case: Case) -> Fate:
    _, path = _which(case)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return "dead"


@_segment
def foreign(case: Case) -> Fate:
    if os.geteuid() != 0:
        return "delivered"
    os.chown(_which(case)[1], FOREIGN_UID, -1)
    return "dead"


@_segment
def shut(case: Case) -> Fate:
    _which(case)[1].chmod(0)
    return "delivered" if os.geteuid() == 0 else "dead"


@_segment
def no_finite_numbers(case: Case) -> Fate:
    which, path = _which(case)
    dtype = case.rng.choice(["float16", "float32", "float64"])
    value = case.rng.choice([np.nan, np.inf, -np.inf])
    array = np.zeros(case.message[which]["shape"], dtype)
    array.flat[case.rng.randrange(array.size)] = value
    path.write_bytes(array.tobytes())
    case.message[which] |= {"dtype": dtype, "size": array.nbytes}
    return "dead"


@_segment
def huge_numbers(case: Case) -> Fate:
    which, path = _which(case)
    array = np.full(case.message[which]["shape"], case.rng.choice([1e300, -1e300, 5e-324]))
    path.write_bytes(array.tobytes())
    case.message[which] |= {"dtype": "float64", "size": array.nbytes}
    return "either"


@_segment
def any_bits_as_numbers(case: Case) -> Fate:
    which, path = _which(case)
    shape = case.message[which]["shape"]
    dtype = np.dtype(case.rng.choice(["float16", "float32", "float64", "bool"]))
    size = int(np.prod(shape)) * dtype.itemsize
    path.write_bytes(case.rng.randbytes(size))
    case.message[which] |= {"dtype": dtype.name, "size": size}
    return "either"


@_segment
def cut_while_it_is_read(case: Case) -> Fate:
    """Done by `cutting`, until the batch is over."""
    return "either"


@contextlib.contextmanager
def cutting(cases: list[Case]) -> Iterator[None]:
    paths = [case.paths[0] for case in cases if "cut_while_it_is_read" in case.done]
    stop = threading.Event()

    def cut() -> None:
        while paths and not stop.wait(0.0005):
            for path in paths:
                with contextlib.suppress(OSError):  # by now it is done, and unlinked
                    size = path.stat().st_size
                    os.truncate(path, 0)
                    os.truncate(path, size)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# -- the run ----------------------------------------------------------------------------------


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
        self.worker_id = ""

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
        """A batch with good jobs among it, and a look at what became of each."""
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
        expected = np.where((mask > 0)[..., None], np.uint8(GREY), image)
        if not np.array_equal(picture, expected):
            self.report.wrong.append(f"a good job: other pixels in {request_id}")

    def check(self, cases: list[Case]) -> None:
        """Each case has a reason on the dead list, with its payload, or a result."""
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
        expected = np.where((mask > 0)[..., None], np.uint8(GREY), image)
        if not np.array_equal(picture, expected):
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
        attack = None
        try:
            worker.wait_for_line(" takes jobs from ")
            attack = Siege(pipeline, worker, folder, seed)
            yield attack
        finally:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            if attack is not None:
                attack.bystanders.close()


def main() -> int:
    """Attack; 0 if the worker has taken no harm."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with (
        RedisServer() as server,
        tempfile.TemporaryDirectory() as folder,
        siege(server, Path(folder), options.seed) as attack,
    ):
        report = attack.run(options.cases)
    print(
        f"{report.cases} hostile cases in {time.monotonic() - began:.0f} s: {report.delivered} "
        f"valid all the same, {sum(report.reasons.values())} dead; {report.good} good jobs; "
        f"peak memory {report.peak_mb:.0f} MB"
    )
    for reason, count in report.reasons.most_common():
        print(f"  {reason:20} {count}")
    for wrong in report.wrong:
        print(f"WRONG: {wrong}")
    return min(len(report.wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
