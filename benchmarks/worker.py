"""What the worker costs in addition to the network, and how it divides its work.

Competitors are this worker, a plain consumer (see plain_consumer.py), and what neither can beat:
the network alone, or the copies alone. Sections can be run one by one:

    python -m benchmarks.worker engine copies idle load fairness workers device
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.device import rows as device_rows
from benchmarks.layouts import layouts
from benchmarks.report import Report, add_output_argument, table
from benchmarks.timing import Timings
from benchmarks.traffic import PREFIX, Consumer, Job, Traffic, put
from core.config import load_settings
from core.contract import CANVAS, parse_job
from core.keys import Kind
from core.machine import keep_freed_memory
from core.network import LaMa
from core.pixels.handover import Loaded
from harness.networks import IDENTITY_MS
from harness.networks import VARIABLE as NETWORK
from harness.redis_server import RedisServer
from harness.wire import DEV_SHM

PROGRAMS = {"worker": "harness.launch", "plain consumer": "benchmarks.plain_consumer"}

#: Environments of a consumer, by its network.
LAMA: Final = {NETWORK: "lama"}
IDENTITY: Final = {NETWORK: "identity"}

#: Jobs of one measurement with the network, and without.
FEW, MANY = 8, 200

#: Jobs of one measurement with the network on a GPU, and seconds until workers are at full speed.
SOME, READY_S = 120, 12.0

#: Milliseconds a picture of a network that takes time without taking the processor.
DEVICE_MS: Final = 20.0


class Bench:
    """A Redis, the traffic, and the rows."""

    #: Milliseconds a picture of a device that is a time line, and the jobs that go through it.
    device_ms: Sequence[float] = (3.15, 1.57)
    device_jobs = 400

    def __init__(self, url: str, traffic: Traffic, report: Report, rounds: int) -> None:
        self.url = url
        self.traffic = traffic
        self.report = report
        self.rounds = rounds

    def start(
        self, stack: ExitStack, network_ms: float | None, count: int = 1
    ) -> dict[str, Consumer]:
        """This worker and the plain consumer, ready; None is the real network."""
        network = LAMA if network_ms is None else {**IDENTITY, IDENTITY_MS: network_ms}
        consumers = {
            name: stack.enter_context(Consumer(self.url, program, count, **network))
            for name, program in PROGRAMS.items()
        }
        for consumer in consumers.values():
            self.traffic.wait_until_ready(consumer, 4 * count)
        return consumers

    def runs(
        self, consumers: Mapping[str, Consumer], kind: Kind, count: int
    ) -> dict[str, Callable[[], float]]:
        """For each consumer what sends so many jobs through it; seconds."""
        return {
            name: partial(self.traffic.run, consumer, kind, count)
            for name, consumer in consumers.items()
        }

    def section(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Keep rows and print them."""
        for row in rows:
            self.report.add(section=name, **row)
        print(f"\n{name}\n\n{table(rows)}", flush=True)


def engine(bench: Bench) -> None:
    """Jobs a second with the real network, against the same pictures through it alone."""
    lama = LaMa(load_settings())
    on_cpu = lama.inpainter.device == "cpu"
    count = FEW if on_cpu else SOME
    alone = (
        partial(_fill, lama, _loaded(bench.traffic, Kind.SHORT), count)
        if on_cpu
        else _on_device(lama, bench.traffic.pictures[Kind.SHORT], count)
    )
    with ExitStack() as stack:
        runs = bench.runs(bench.start(stack, None), Kind.SHORT, count)
        began = time.perf_counter()
        while not on_cpu and time.perf_counter() < began + READY_S:
            # Workers record graphs at first, while they serve.
            for run in runs.values():
                run()
        timings = _in_turns({"network alone": _timed(alone), **runs}, bench.rounds)
    bench.section("engine: 1024×1024", _rates(timings, count, "network alone"))


def _fill(lama: LaMa, loaded: Loaded, count: int) -> None:
    for _ in range(count // 4):
        lama([loaded] * 4)


def _on_device(
    lama: LaMa, pictures: tuple[np.ndarray, np.ndarray], count: int
) -> Callable[[], None]:
    """Pictures that are on the GPU already, and stay there: what no worker can beat."""
    import torch

    from lama.engine.engine import as_pixels

    image, mask = pictures
    engine = lama.inpainter.engine
    engine.prepare(4, *mask.shape)
    pixels = as_pixels(np.stack([image] * 4), np.stack([mask > 0] * 4)).to(lama.inpainter.device)

    def run() -> None:
        with torch.no_grad():
            for _ in range(count // 4):
                engine.paint(pixels)
        torch.cuda.synchronize()

    return run


def copies(bench: Bench) -> None:
    """Jobs a second without a network, against copying the same bytes in one thread."""
    with ExitStack() as stack:
        consumers = bench.start(stack, 0)
        for kind in (Kind.SHORT, Kind.LONG):
            alone = {"copies alone": partial(_copy, bench.traffic, kind, MANY)}
            timings = _in_turns(alone | bench.runs(consumers, kind, MANY), bench.rounds)
            size = "×".join(map(str, CANVAS[kind]))
            bench.section(f"copies: {size}", _rates(timings, MANY, "copies alone"))


def idle(bench: Bench) -> None:
    """Milliseconds from RPUSH to the result's announcement, one job at a time, no network."""
    with ExitStack() as stack:
        consumers = bench.start(stack, 0)
        taken: dict[str, list[float]] = {name: [] for name in consumers}
        for number in range(20 * bench.rounds):
            for name in list(consumers)[:: 1 if number % 2 else -1]:
                time.sleep(0.03)
                taken[name].append(bench.traffic.run(consumers[name], Kind.SHORT, 1))
    bench.section("idle: 1024×1024", [_latency(name, seconds) for name, seconds in taken.items()])


def load(bench: Bench) -> None:
    """The same at half of the rate that each consumer reaches, jobs arriving at random."""
    rows = []
    with ExitStack() as stack:
        for name, consumer in bench.start(stack, 0).items():
            rate = 0.5 * MANY / bench.traffic.run(consumer, Kind.SHORT, MANY)
            gaps = np.random.default_rng(0).exponential(1 / rate, MANY)
            jobs = bench.traffic.make(Kind.SHORT, MANY)
            pushed, arrived = _push_at(bench.traffic, consumer, Kind.SHORT, jobs, gaps.cumsum())
            bench.traffic.take(jobs)
            waits = [arrived[request] - pushed[request] for request, _ in jobs]
            rows.append({**_latency(name, waits), "jobs/s": rate})
    bench.section("load: 1024×1024, at half of each one's rate", rows)


def fairness(bench: Bench) -> None:
    """What a job on one queue waits while the other is flooded."""
    rows = []
    with ExitStack() as stack:
        for name, consumer in bench.start(stack, DEVICE_MS).items():
            for flooded in Kind:
                flood = bench.traffic.make(flooded, 120)
                others = bench.traffic.make(flooded.other, 10)
                bench.traffic.push(consumer, flooded, flood)
                pushed, arrived = _push_at(
                    bench.traffic, consumer, flooded.other, others, np.arange(10) * 0.15, flood
                )
                bench.traffic.take([*flood, *others])
                waits = [arrived[request] - pushed[request] for request, _ in others]
                rows.append({"flooded": str(flooded), **_latency(name, waits)})
    bench.section(f"fairness: {DEVICE_MS:g} ms a picture", rows)


def workers(bench: Bench) -> None:
    """Jobs a second of one to four on the same queues, each with a device of its own."""
    rows = []
    first: dict[str, float] = {}
    for count in (1, 2, 3, 4):
        with ExitStack() as stack:
            runs = bench.runs(bench.start(stack, DEVICE_MS, count), Kind.SHORT, 60 * count)
            timings = _in_turns(runs, bench.rounds)
        for name in runs:
            rate = 60 * count / timings.median(name)
            share = rate / first.setdefault(name, rate)
            rows.append({"what": name, "workers": count, "jobs/s": rate, "of one": share})
    bench.section(f"workers: {DEVICE_MS:g} ms a picture", rows)


def device(bench: Bench) -> None:
    """Rate and gaps of a device that is a time line, with and without launching ahead."""
    found = device_rows(bench.url, bench.traffic, bench.device_ms, bench.device_jobs, bench.rounds)
    bench.section("device: 1024×1024", list(found))


SECTIONS: dict[str, Callable[[Bench], None]] = {
    section.__name__: section for section in (engine, copies, idle, load, fairness, workers, device)
}


def main() -> None:
    """Run the sections that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=5, help="per competitor (%(default)s)")
    parser.add_argument(
        "--ms", type=float, nargs="+", default=Bench.device_ms,
        help="of a picture, for the section device (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=Bench.device_jobs, help="for the section device (%(default)s)"
    )
    add_output_argument(parser, "worker")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(unknown)}")
    keep_freed_memory()  # as the worker does, so that the network alone is no worse off
    report = Report(
        "worker",
        ("section", "what", "flooded", "workers", "ms a picture", "launches ahead"),
        options.json,
    )
    with RedisServer() as server, Traffic(server.url, _pictures()) as traffic:
        bench = Bench(server.url, traffic, report, options.rounds)
        bench.device_ms, bench.device_jobs = options.ms, options.jobs
        for name in options.sections or SECTIONS:
            SECTIONS[name](bench)
    print(f"\nwritten to {report.write()}")


def _pictures() -> dict[Kind, tuple[np.ndarray, np.ndarray]]:
    """For each kind a page on its canvas, and its mask."""
    pages = {kind: layouts(kind, 4)[3].prepared for kind in Kind}
    return {kind: (page.image, page.mask) for kind, page in pages.items()}


def _loaded(traffic: Traffic, kind: Kind) -> Loaded:
    """A job as the network gets it."""
    ((_, payload),) = traffic.make(kind, 1)
    image, mask = traffic.pictures[kind]
    return Loaded(parse_job(payload, load_settings().wire_format), image, mask, None, os.geteuid())


def _copy(traffic: Traffic, kind: Kind, count: int) -> float:
    """Seconds for the bytes of so many jobs: read, written, and the inputs removed; no more."""
    inputs = [[put(array)["shm_name"] for array in traffic.pictures[kind]] for _ in range(count)]
    buffers = [np.empty_like(array) for array in traffic.pictures[kind]]
    results = [DEV_SHM / f"{PREFIX}copy{number}" for number in range(count)]
    began = time.perf_counter()
    for names, result in zip(inputs, results, strict=True):
        for name, buffer in zip(names, buffers, strict=True):
            with open(DEV_SHM / str(name), "rb", buffering=0) as segment:
                segment.readinto(buffer.data)
        with open(result, "xb", buffering=0) as segment:
            segment.write(buffers[0].data)
        for name in names:
            os.unlink(DEV_SHM / str(name))
    took = time.perf_counter() - began
    for result in results:
        result.unlink()
    return took


def _push_at(
    traffic: Traffic,
    consumer: Consumer,
    kind: Kind,
    jobs: Sequence[Job],
    times: np.ndarray,
    others: Sequence[Job] = (),
) -> tuple[dict[str, float], dict[str, float]]:
    """Push jobs at these seconds from now; when each was pushed, and when each result arrived.

    Also waits for the results of `others`.
    """
    began = time.perf_counter()
    pushed = {}
    arrived: dict[str, float] = {}
    for job, due in zip(jobs, times, strict=True):
        arrived |= traffic.arrivals_until(began + due)
        pushed[job[0]] = traffic.push(consumer, kind, [job])
    arrived |= traffic.arrivals([job for job in [*jobs, *others] if job[0] not in arrived])
    return pushed, arrived


def _in_turns(competitors: Mapping[str, Callable[[], float]], rounds: int) -> Timings:
    """Like timing.alternate, of functions that tell their own seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for number in range(rounds):
        for name in list(competitors)[:: 1 if number % 2 else -1]:
            seconds[name].append(competitors[name]())
    return Timings(seconds)


def _timed(act: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        began = time.perf_counter()
        act()
        return time.perf_counter() - began

    return timed


def _rates(timings: Timings, count: int, baseline: str) -> list[dict[str, Any]]:
    return [
        {
            "what": name,
            "jobs/s": count / timings.median(name),
            f"of {baseline}": timings.ratio(name, baseline),
        }
        for name in timings.seconds
    ]


def _latency(name: str, seconds: Sequence[float]) -> dict[str, Any]:
    median, ninety, worst = np.percentile(seconds, (50, 90, 100)) * 1000
    return {"what": name, "median ms": median, "90 % ms": ninety, "worst ms": worst}


if __name__ == "__main__":
    main()
