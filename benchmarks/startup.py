"""Seconds from exec to the first claim and the first result, and what they are spent on.

A job waits in its queue when the worker is started. Parts are programs that do the first of what a
worker does and end; the differences between them are what each adds. All take turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from benchmarks.report import Report, add_output_argument
from benchmarks.subjects import holes, pictures
from benchmarks.traffic import Consumer, Traffic
from core.contract import CANVAS
from core.keys import Kind
from harness import ROOT
from harness.redis_server import RedisServer

#: What a worker does until it claims, as programs that go further and further.
PARTS = {
    "interpreter": "pass",
    "imports": ("import core.network, core.flow.service, lama.regions; from lama import inference"),
    "loading": (
        "import core.network, core.flow.service, lama.regions; from lama import inference\n"
        "from core.config import load_settings; s = load_settings()\n"
        "inference.load_lama_model(s.lama_config_path, s.lama_checkpoint_path, 'cpu')"
    ),
    "warm-up": (
        "import core.flow.service; from core.network import LaMa\n"
        "from core.config import load_settings; LaMa(load_settings())"
    ),
}

CLAIM, RESULT = "first claim", "first result"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    add_output_argument(parser, "startup")
    options = parser.parse_args()
    size = CANVAS[Kind.SHORT]
    picture = pictures(1, *size)[0], holes("text", 1, *size)[0].astype("uint8") * 255
    seconds: dict[str, list[float]] = {name: [] for name in (*PARTS, CLAIM, RESULT)}
    with RedisServer() as server, Traffic(server.url, {Kind.SHORT: picture}) as traffic:
        for _ in range(options.rounds):
            for name, program in PARTS.items():
                seconds[name].append(_timed(partial(_run, program)))
            claimed, delivered = _first_job(server.url, traffic)
            seconds[CLAIM].append(claimed)
            seconds[RESULT].append(delivered)
    report = Report("startup", ("until",), options.json)
    before = 0.0
    for name, values in seconds.items():
        report.add(until=name, seconds=median(values), more=median(values) - before)
        before = median(values)
    report.finish()


def _first_job(url: str, traffic: Traffic) -> tuple[float, float]:
    """Seconds until a worker that is started now has claimed a waiting job, and delivered it."""
    consumer = Consumer(url, "worker")
    jobs = traffic.make(Kind.SHORT, 1)
    traffic.push(consumer, Kind.SHORT, jobs)
    began = time.perf_counter()
    with consumer:
        while traffic.redis.llen(consumer.queues[Kind.SHORT]):
            time.sleep(0.002)
        claimed = time.perf_counter() - began
        delivered = max(traffic.arrivals(jobs).values()) - began
        traffic.take(jobs)
    return claimed, delivered


def _run(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
