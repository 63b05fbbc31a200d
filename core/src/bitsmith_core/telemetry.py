"""Traces: what one request set in motion, through the queue to the worker and its engine.

    request -> job.submit -> (jobs.traceparent) -> job.offer -> (outbox, Celery header)
            -> job.claim, job.attempt -> stage.fetching, stage.training, ...; TRACEPARENT of the engine

Off unless OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) is set; all of OpenTelemetry's other
variables mean what they always mean.
Context crosses processes as a W3C traceparent, a string: https://www.w3.org/TR/trace-context/#traceparent-header.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bitsmith_core.log import get_logger

__all__ = ["Span", "SpanKind", "StatusCode", "configure", "continued", "flush", "span", "started", "traceparent"]

TRACEPARENT = "traceparent"
FLUSH_WITHIN_MS = 3000

_SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROPAGATOR = TraceContextTextMapPropagator()

Attribute = str | int | float | bool


def configure(service: str) -> None:
    """Send this process' spans where the environment says. Once per process: threads do not survive a fork.

    Args:
        service: what the process is called in traces, unless OTEL_SERVICE_NAME says otherwise.
    """
    if not any(os.environ.get(name) for name in _SWITCHES) or _is_configured():
        return
    try:
        # Not at the top: it is an extra, and most installations do without.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        get_logger().warning("telemetry.unavailable", reason=str(error), advice="pip install 'bitsmith[otel]'")
        return
    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", service), "service.version": version("bitsmith")}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    get_logger().info("telemetry.started", service=service)


def flush() -> None:
    """Send what is not sent yet, for a process that may be killed any moment; does not wait for long."""
    flush_now = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush_now is not None:
        flush_now(FLUSH_WITHIN_MS)


@contextmanager
def span(
    name: str, *, parent: str | None = None, kind: SpanKind = SpanKind.INTERNAL, **attributes: Attribute
) -> Iterator[Span]:
    """What happens inside is part of it; an exception marks it as failed.

    Args:
        parent: a traceparent from elsewhere; without one, what is under way here.
        attributes: `job_id` is written as `job.id`.
    """
    with _tracer().start_as_current_span(
        name, context=_from(parent), kind=kind, attributes=_dotted(attributes)
    ) as current:
        yield current


def started(name: str, **attributes: Attribute) -> Span:
    """A span below what is under way here, for the caller to end."""
    return _tracer().start_span(name, attributes=_dotted(attributes))


@contextmanager
def continued(parent: str | None) -> Iterator[None]:
    """What happens inside belongs to a trace that began elsewhere."""
    token = context.attach(_from(parent) or context.get_current())
    try:
        yield
    finally:
        context.detach(token)


def traceparent() -> str | None:
    """Of what is under way here, for others to go on from; None if nothing is traced."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(TRACEPARENT)


def _from(parent: str | None) -> context.Context | None:
    """None, and so the present one, also for what is no traceparent: a client may send anything."""
    if parent is None:
        return None
    found = _PROPAGATOR.extract({TRACEPARENT: parent}, context=context.Context())
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def _dotted(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {name.replace("_", ".", 1): value for name, value in attributes.items()}


def _tracer() -> trace.Tracer:
    return trace.get_tracer("bitsmith", version("bitsmith"))


def _is_configured() -> bool:
    return hasattr(trace.get_tracer_provider(), "force_flush")
