"""Log lines, tallies and traces."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from core.telemetry.logs import JsonFormatter, OneLineFormatter, log_extra
from core.telemetry.spans import Tracing
from core.telemetry.tallies import Durations, Histogram, History
from harness import ROOT
from harness.waiting import wait_until
from harness.wire import Pipeline, page
from harness.workers import StartWorker

FORGERIES = ["a\nERROR forged", "a\rb", "\x1b[2Jx", "a\u2028b", "a\u202eb", "\x85", '"}\n{"a": "']


def record(message: str, *arguments: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("core.x", logging.INFO, __file__, 1, message, arguments, None)
    vars(made).update(extra)
    return made


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("formatter", [OneLineFormatter(), JsonFormatter()])
def test_no_message_forges_a_line(formatter: logging.Formatter, forgery: str) -> None:
    line = formatter.format(record("request %s done", forgery, **log_extra(forgery)))
    assert len(line.splitlines()) == 1
    assert all(character.isprintable() for character in line)


def test_a_line_of_json_says_which_requests_it_is_about() -> None:
    line = json.loads(JsonFormatter().format(record("%d done", 1, **log_extra("r\n1"))))
    assert line["message"] == "1 done"
    assert line["level"] == "INFO"
    assert line["logger"] == "core.x"
    assert line["request_id"] == "r\n1"
    assert line["time"].endswith("Z")
    several = json.loads(JsonFormatter().format(record("2 done", **log_extra("a", "b"))))
    assert several["request_ids"] == ["a", "b"]
    assert "request_id" not in several
    assert "request_id" not in json.loads(JsonFormatter().format(record("stopped")))


def test_a_traceback_is_part_of_its_line_of_json() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    text = JsonFormatter().format(failed)
    assert "\n" not in text
    assert "ValueError: a\nb" in json.loads(text)["exception"]


def test_every_line_of_a_worker_is_json_and_every_line_about_a_job_names_its_request(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    worker = start_worker(LOG_FORMAT="json", MAX_ATTEMPTS=2)
    done = pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96))
    pipeline.fetch(done)
    dead = pipeline.submit(*page(60, 90, 1), "long", canvas=(64, 96), image_id="explode.jpg")
    worker.wait_for_line("is dead")
    nameless = pipeline.submit(*page(60, 90, 1), "long", canvas=(64, 96), image_id="nameless.jpg")
    wait_until(lambda: worker.output.count("is dead") == 2, "both are dead")
    assert worker.stop() == 0
    lines = [json.loads(line) for line in worker.output.splitlines()]
    for request in (done, dead, nameless):
        mentioned = [line for line in lines if request in line["message"]]
        assert len(mentioned) >= 3
        for line in mentioned:
            assert request in line.get("request_ids", [line.get("request_id")]), line
    assert any("exception" in line for line in lines if line.get("request_id") == dead)


def test_a_histogram_counts_as_prometheus_does() -> None:
    histogram = Histogram((1, 2.5))
    for value in (0.5, 1, 1.5, 99):
        histogram.add(value)
    histogram.add(2, count=3)
    assert histogram.cumulative() == [("1", 2), ("2.5", 6), ("+Inf", 7)]
    assert histogram.sum == 108


def test_percentiles_are_of_what_ended_in_the_window() -> None:
    durations = Durations(window_s=60)
    assert durations.percentiles(0, 0.5) == [None]
    durations.add(0, 1000)
    for seconds in range(1, 101):
        durations.add(100, seconds)
    assert durations.count(120) == 100
    assert durations.percentiles(120, 0.5, 0.95, 1.0) == [51, 96, 100]
    assert durations.count(161) == 0


def test_the_history_keeps_the_latest_rows_and_tells_the_new_ones() -> None:
    history = History(("a", "b"), most=3)
    assert history.after(0) == (0, {"a": [], "b": []})
    for number in range(1, 6):
        history.add(a=number, b=None)
    assert history.after(0) == (5, {"a": [3, 4, 5], "b": [None] * 3})
    assert history.after(4) == (5, {"a": [5], "b": [None]})
    assert history.after(5) == (5, {"a": [], "b": []})
    assert history.after(99) == history.after(0)


# -- traces ---------------------------------------------------------------------------------------

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def exported() -> Iterator[Any]:
    """The spans of this process, in memory."""
    trace = pytest.importorskip("opentelemetry.trace")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def tracing(exported: Any) -> Tracing:
    exported.clear()
    started = Tracing()
    started.start()
    return started


def test_a_span_is_in_its_senders_trace_and_passed_on(tracing: Tracing, exported: Any) -> None:
    message = {"request_id": "r1", "traceparent": PARENT, "tracestate": "a=b"}
    fields = tracing.done(json.dumps(message).encode(), 1000.5, {"inpainting.queue": "long"})
    (span,) = exported.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert span.start_time == 1_000_500_000_000
    assert span.attributes["messaging.message.id"] == "r1"
    assert span.attributes["inpainting.queue"] == "long"
    assert fields["traceparent"] == f"00-{PARENT.split('-')[1]}-{span.context.span_id:016x}-01"
    assert fields["tracestate"] == "a=b"


def test_a_failed_try_is_a_span_with_its_error(tracing: Tracing, exported: Any) -> None:
    tracing.failed(json.dumps({"traceparent": PARENT}).encode(), "crashed", "it did", 2)
    (span,) = exported.get_finished_spans()
    assert not span.status.is_ok
    assert span.status.description == "it did"
    assert span.attributes["inpainting.reason"] == "crashed"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"no json",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        json.dumps({"traceparent": 5, "tracestate": ["x"], "request_id": {}}).encode(),
        json.dumps({"traceparent": "x" * 100_000, "baggage": "\r\nx: y"}).encode(),
        json.dumps({"traceparent": PARENT, "tracestate": "=;\x00,,\ud800"}).encode(),
    ],
)
def test_a_hostile_context_begins_a_trace_of_its_own_or_none(
    tracing: Tracing, exported: Any, message: bytes
) -> None:
    fields = tracing.done(message, 1.0, {})
    assert set(fields) <= {"traceparent", "tracestate", "baggage"}
    assert len(exported.get_finished_spans()) == 1


def test_without_the_sdk_nothing_is_passed_on_and_nothing_imported() -> None:
    program = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from core.telemetry import tracing\n"
        "tracing.start()\n"
        'assert tracing.done(b\'{"traceparent": "x"}\', 1.0, {}) == {}\n'
        "tracing.failed(b'', 'a', 'b', 1); tracing.flush()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_exports_a_span_and_puts_its_context_into_the_result(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    worker = start_worker(OTEL_TRACES_EXPORTER="console", OTEL_SDK_DISABLED="false")
    request = pipeline.submit(
        *page(60, 90, 1), "short", canvas=(64, 96), traceparent=PARENT, tracestate="a=b"
    )
    result = pipeline.result(request)
    assert result["traceparent"].split("-")[1] == PARENT.split("-")[1]
    assert result["traceparent"] != PARENT
    assert worker.stop() == 0
    assert '"name": "inpaint"' in worker.output
    assert PARENT.split("-")[2] in worker.output
    from core.pixels import shm

    name = result["inpaint_shm_info"]["shm_name"]
    shm.unlink(name, {shm.owner(name)})
