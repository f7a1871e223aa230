"""OpenTelemetry: a span for each attempt of a job, in its sender's trace.

A message may carry a trace context in the extra fields `traceparent`, `tracestate` and `baggage`
(W3C). The span becomes its child. The result's hash carries the span's context in fields of the
same names, for the next step of the pipeline. Without OpenTelemetry's SDK there are no spans and
nothing is imported.

Errors in here are only logged, so that a span cannot fail a job.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from core import __version__

log = logging.getLogger(__name__)

FIELDS: Final = ("traceparent", "tracestate", "baggage")

#: Longest field that is accepted from a message, in characters.
LONGEST: Final = 8192

#: Seconds that the export of the last spans may take.
FLUSH_S: Final = 2.0

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing:
    """The spans of this process; none until `start` has found the SDK."""

    def __init__(self) -> None:
        self._tracer: Any = None

    def start(self) -> None:
        """Use the SDK if it is installed, configured by its environment variables (OTEL_…).

        An existing provider (for example from opentelemetry-instrument) is used as it is.
        """
        if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return
        try:
            if importlib.util.find_spec("opentelemetry.sdk") is None:
                return
        except ModuleNotFoundError:  # opentelemetry itself is missing
            return
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.trace import TracerProvider

            if not isinstance(trace.get_tracer_provider(), TracerProvider):
                trace.set_tracer_provider(_provider())
            self._tracer = trace.get_tracer("inpainting-worker", __version__)
        except Exception:
            log.exception("no traces: OpenTelemetry cannot be used")

    def flush(self) -> None:
        """Export the remaining spans. FLUSH_S is the SDK's limit, which it may not keep."""
        if self._tracer is not None:
            from opentelemetry import trace

            provider: Any = trace.get_tracer_provider()
            _without_fail(lambda: provider.force_flush(round(FLUSH_S * 1000)))

    def done(
        self, payload: bytes, began_at: float, attributes: Mapping[str, str | int]
    ) -> dict[str, str]:
        """A job is about to be committed; returns the fields to add to its result.

        `began_at` is in unix seconds.
        """
        fields: dict[str, str] = {}
        if self._tracer is not None:
            _without_fail(lambda: self._span(payload, began_at, attributes, "", fields))
        return fields

    def failed(self, payload: bytes, reason: str, error: str, attempt: int) -> None:
        """An attempt of a job has failed."""
        if self._tracer is not None:
            attributes: dict[str, str | int] = {
                "inpainting.reason": reason,
                "inpainting.tries": attempt,
            }
            _without_fail(lambda: self._span(payload, time.time(), attributes, error, {}))

    def _span(
        self,
        payload: bytes,
        began_at: float,
        attributes: Mapping[str, str | int],
        error: str,
        fields: dict[str, str],
    ) -> None:
        from opentelemetry import propagate, trace

        sent = _message(payload)
        carrier = {
            name: value
            for name in FIELDS
            if isinstance(value := sent.get(name), str) and len(value) <= LONGEST
        }
        context = propagate.extract(carrier)
        named = {"messaging.system": "redis", "messaging.operation.name": "process"}
        for name, attribute in (("request_id", "messaging.message.id"), ("image_id", "image.id")):
            if isinstance(value := sent.get(name), str):
                named[attribute] = value[:LONGEST]
        span = self._tracer.start_span(
            "inpaint",
            context,
            kind=trace.SpanKind.CONSUMER,
            start_time=int(began_at * 1e9),
            attributes={**named, **attributes},
        )
        if error:
            span.set_status(trace.Status(trace.StatusCode.ERROR, error))
        propagate.inject(fields, trace.set_span_in_context(span, context))
        for name in set(fields) - set(FIELDS):  # of other propagators
            del fields[name]
        span.end()


def _provider() -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "inpainting-worker"}
    provider = TracerProvider(resource=Resource.create(named))
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if "console" in exporters:
        provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    if "otlp" in exporters and any(os.environ.get(name) for name in ENDPOINTS):
        try:
            exporter = importlib.import_module(
                "opentelemetry.exporter.otlp.proto.http.trace_exporter"
            )
            provider.add_span_processor(BatchSpanProcessor(exporter.OTLPSpanExporter()))
        except ImportError:
            log.warning(
                "traces are exported nowhere: pip install opentelemetry-exporter-otlp-proto-http"
            )
    return provider


def _message(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _without_fail(action: Callable[[], object]) -> None:
    try:
        action()
    except Exception:
        log.exception("a span is lost")


#: The spans of this process.
tracing = Tracing()
