"""The worker's record as Prometheus metrics, computed at each scrape.

Conventions: the prefix `inpainting_`, base units (seconds, bytes), counters end in `_total`. The
label `queue` is the kind of the queue, long or short, not the name of the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from core import __version__
from core.admin.health import Health
from core.admin.sampler import Sampler
from core.keys import Kind
from core.network import device_memory
from core.recovery.overview import shm_use
from core.telemetry import Watch
from core.telemetry.record import Phase
from core.telemetry.tallies import DURATIONS, SIZES, Histogram

#: Gauges of the GPU's memory and their descriptions.
DEVICE_MEMORY: Final = {
    "allocated": "GPU memory in tensors.",
    "reserved": "GPU memory that torch holds.",
    "size": "GPU memory in all.",
}

OUTCOMES: Final = ("done", "retried", "dead", "lost", "given_back", "superseded", "expired")


class Metrics:
    """Renders all metrics for a scrape."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, watch: Watch, sampler: Sampler, name_prefix: str) -> None:
        """`name_prefix` is SHM_NAME_PREFIX."""
        self._registry = CollectorRegistry()
        self._registry.register(_WorkerCollector(watch, sampler, name_prefix))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """The text format, as Prometheus reads it."""
        return generate_latest(self._registry)


class _WorkerCollector(Collector):
    def __init__(self, watch: Watch, sampler: Sampler, name_prefix: str) -> None:
        self._watch = watch
        self._sampler = sampler
        self._name_prefix = name_prefix
        self._health = Health(watch, sampler)

    def collect(self) -> Iterator[Metric]:
        with self._watch.lock:
            yield from list(self._counted())
        yield from self._present()
        yield from self._redis()
        yield from self._memory()

    def _counted(self) -> Iterator[Metric]:
        watch = self._watch
        yield _counter(
            "inpainting_jobs",
            "Jobs by outcome: done, retried, dead, lost, given_back, superseded, expired.",
            ("queue", "outcome"),
            {(kind, outcome): watch.jobs[kind, outcome] for kind in Kind for outcome in OUTCOMES},
        )
        yield _counter(
            "inpainting_failed_attempts",
            "Failed attempts of jobs by reason.",
            ("queue", "reason"),
            dict(watch.failures),
        )
        yield _counter(
            "inpainting_jobs_recovered",
            "Jobs of dead workers that this one put back.",
            ("queue",),
            {(kind,): watch.recovered[kind] for kind in Kind},
        )
        yield _counter(
            "inpainting_result_queue_dropped",
            "Outcomes that the result queue had no room for, or could not be pushed to it.",
            (),
            {(): watch.dropped_outcomes},
        )
        yield _counter(
            "inpainting_redis_reconnections",
            "Times that Redis came back after an outage.",
            (),
            {(): watch.reconnections},
        )
        yield _counter(
            "inpainting_half_precision_fallbacks",
            "Pictures computed again in float32 because half precision overflowed.",
            (),
            {(): watch.half_fallbacks()},
        )
        yield _counter(
            "inpainting_log_lines_dropped",
            "Lines of the log that could not be written to standard error.",
            (),
            {(): watch.dropped_log_lines()},
        )
        yield _histogram(
            "inpainting_batch_size_jobs",
            "Jobs in a batch.",
            "queue",
            SIZES,
            Kind,
            watch.batch_sizes,
        )
        yield _histogram(
            "inpainting_stage_duration_seconds",
            "Time that a batch spends in a stage.",
            "stage",
            DURATIONS,
            ("load", "infer", "store"),
            watch.stages,
        )
        yield _histogram(
            "inpainting_job_duration_seconds",
            "Time from a job's claim to its committed result.",
            "queue",
            DURATIONS,
            Kind,
            watch.job_durations,
        )

    def _present(self) -> Iterator[Metric]:
        watch = self._watch
        yield InfoMetricFamily(
            "inpainting_worker",
            "Version, id and device of this worker.",
            {"version": __version__, "worker": watch.worker, "model": watch.model},
        )
        yield GaugeMetricFamily(
            "inpainting_gpu_missing",
            "1 if USE_CUDA asks for a GPU and none can be used, so that the CPU is.",
            int(watch.lacks_gpu),
        )
        yield GaugeMetricFamily(
            "inpainting_jobs_in_flight",
            "Jobs that this worker has claimed and not finished.",
            watch.in_flight(),
        )
        yield GaugeMetricFamily(
            "inpainting_serving",
            "1 while the worker serves, 0 while it starts or stops.",
            int(watch.phase is Phase.SERVING),
        )
        yield GaugeMetricFamily(
            "inpainting_ready",
            "1 while the worker takes jobs, like /readyz.",
            int(not self._health.unreadiness()),
        )

    def _redis(self) -> Iterator[Metric]:
        overview = self._sampler.overview()
        yield GaugeMetricFamily(
            "inpainting_redis_up", "1 if Redis answers.", int(overview is not None)
        )
        if overview is None:
            return  # no value rather than an outdated one
        backlog = GaugeMetricFamily(
            "inpainting_queue_backlog_jobs", "Jobs waiting in a queue.", labels=["queue"]
        )
        for kind, length in overview.backlog.items():
            backlog.add_metric([kind], length)
        yield backlog
        for name, meaning, value in (
            ("inpainting_dead_jobs", "Jobs on the dead-letter list.", overview.dead),
            (
                "inpainting_attempted_jobs",
                "Unfinished jobs with a failed attempt.",
                overview.attempts,
            ),
            (
                "inpainting_processing_jobs",
                "Jobs claimed by all workers of these queues.",
                overview.processing,
            ),
            (
                "inpainting_orphaned_jobs",
                "Jobs claimed by dead workers whose crew has no living worker to recover them.",
                overview.orphaned,
            ),
            (
                "inpainting_delayed_jobs",
                "Jobs that wait in Redis for another attempt.",
                sum(overview.delayed.values()),
            ),
            (
                "inpainting_result_queue_outcomes",
                "Outcomes that wait in a result queue that all requests share.",
                overview.outcomes,
            ),
            ("inpainting_workers", "Workers alive on this shared memory.", len(overview.workers)),
        ):
            yield GaugeMetricFamily(name, meaning, value)

    def _memory(self) -> Iterator[Metric]:
        use = shm_use(self._name_prefix)
        values = [
            ("inpainting_shm_size_bytes", "Total size of /dev/shm.", use.size),
            ("inpainting_shm_free_bytes", "Free space in /dev/shm.", use.free),
            ("inpainting_result_segments", "Results in /dev/shm not yet fetched.", use.results),
            ("inpainting_result_segments_bytes", "Their total size.", use.result_bytes),
        ]
        for name, value in device_memory().items():
            values.append((f"inpainting_device_memory_{name}_bytes", DEVICE_MEMORY[name], value))
        for name, meaning, value in values:
            yield GaugeMetricFamily(name, meaning, value)


def _counter(name: str, meaning: str, labels: tuple[str, ...], values: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _histogram(
    name: str,
    meaning: str,
    label: str,
    bounds: tuple[float, ...],
    known: Iterable[str],
    values: Mapping[str, Histogram],
) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=[label])
    for key in known:
        histogram = values.get(key) or Histogram(bounds)
        family.add_metric([str(key)], histogram.cumulative(), histogram.sum)
    return family
