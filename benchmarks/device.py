"""The worker on a device that is a time line (see harness/timeline.py): its rate and its gaps."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.traffic import Consumer, Traffic
from core.keys import Kind
from harness.networks import VARIABLE as NETWORK
from harness.timeline import VARIABLE, Span, read_logs

#: Results at either end of a run that are left out: there the pipeline is filled or drained.
ENDS: Final = 8


def rows(
    url: str, traffic: Traffic, milliseconds: Sequence[float], jobs: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Medians of some runs, for each time of a picture and for one and two workers."""
    for ms in milliseconds:
        for count in (1, 2):
            for is_ahead in (False, True):
                options = {"ms": ms, "is_ahead": is_ahead}
                runs = [_run(url, traffic, options, count, jobs) for _ in range(rounds)]
                medians = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
                row = {"ms a picture": ms, "workers": count, "launches ahead": is_ahead}
                yield {**row, "device alone/s": 1000 / ms, **medians}


def _run(
    url: str, traffic: Traffic, options: dict[str, Any], count: int, jobs: int
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        environment = {NETWORK: "timeline", VARIABLE: json.dumps({**options, "folder": folder})}
        consumer = Consumer(url, "harness.launch", count, **environment)
        stack.enter_context(consumer)
        traffic.wait_until_ready(consumer, 4 * count)
        made = traffic.make(Kind.SHORT, jobs)
        traffic.push(consumer, Kind.SHORT, made)
        arrivals = sorted(traffic.arrivals(made).values())
        traffic.take(made)
        spans = read_logs(Path(folder))
    began, ended = arrivals[ENDS], arrivals[-ENDS]
    return {
        "jobs/s": (len(arrivals) - 2 * ENDS) / (ended - began),
        **_stillness(spans, began, ended),
    }


def _stillness(workers: Sequence[Sequence[Span]], began: float, ended: float) -> dict[str, float]:
    """How busy the device was, its gaps, and the processor time of a batch without copying."""
    batches = sorted(batch for spans in workers for span in spans for batch in span.batches)
    inside = [batch for batch in batches if began <= batch[0] and batch[1] <= ended]
    gaps = [max(0.0, after[0] - before[1]) * 1000 for before, after in pairwise(inside)]
    busy = sum(end - start for start, end in inside) / (inside[-1][1] - inside[0][0])
    median, ninety, most = np.percentile(gaps, (50, 90, 99))
    others_s = sum(
        (spans[-1].cpu_s - spans[-1].copying_s) - (spans[0].cpu_s - spans[0].copying_s)
        for spans in workers
    )
    logged = sum(len(span.batches) for spans in workers for span in spans[1:])
    return {
        "busy": busy,
        "gap ms": float(median),
        "90 %": float(ninety),
        "99 %": float(most),
        "CPU ms a batch, not copying": 1000 * others_s / max(1, logged),
    }
