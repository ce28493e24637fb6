"""The W3C trace context of requests, and OpenTelemetry spans where they are enabled.

Spans are created after a response, from the times that every request records anyway. So a server without tracing pays
for one comparison, and one with tracing needs no context variables. A span of the request has three children: queue,
decode and infer. Their durations were measured; they are placed one after the other from the time the request was
queued, although the images of a batch are decoded in turn.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

from serve.messages import say
from serve.server.request import Headers, Request
from serve.service.settings import Settings
from zoo import __version__
from zoo.errors import ZooError, not_importable

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

# https://www.w3.org/TR/trace-context/#traceparent-header; versions after 00 may add fields
TRACEPARENT = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})-"
    rb"(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?"
)
# https://opentelemetry.io/docs/specs/otel/protocol/exporter/
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
ROUTES = {
    "predict": "/models/{name}/predict",
    "infer": "/v2/models/{name}/infer",
}


def parse_traceparent(headers: Headers) -> re.Match[bytes] | None:
    """The traceparent header, with the groups trace, span and flags. None if it is missing, invalid or repeated."""
    values = [value for name, value in headers if name == b"traceparent"]
    match = TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    return None if match and match["version"] == b"00" and match["rest"] else match


def trace_context(headers: Headers) -> dict[str, str]:
    """The trace_id, and the span_id of the caller, for the access log."""
    match = parse_traceparent(headers)
    return {"trace_id": match["trace"].decode(), "span_id": match["span"].decode()} if match else {}


class Tracer:
    """Sends a span per request to an exporter, in batches, from a thread."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        attributes = {"service.version": __version__}
        if "OTEL_SERVICE_NAME" not in os.environ:
            attributes["service.name"] = "pocketzoo"
        self._provider = TracerProvider(resource=Resource.create(attributes))  # it reads OTEL_TRACES_SAMPLER and others
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("pocketzoo", __version__)

    def record(self, request: Request, status: int) -> dict[str, str]:
        """Create the spans of a finished request. Returns its trace_id and its span's span_id, for the access log."""
        from opentelemetry import trace

        now_ns, now = time.time_ns(), time.perf_counter()
        start_ns = now_ns - int((now - request.started) * 1e9)
        route = ROUTES.get(request.route)
        # https://opentelemetry.io/docs/specs/semconv/http/http-spans/
        attributes: dict[str, Any] = {
            "http.request.method": request.method,
            "http.response.status_code": status,
            "url.path": request.scope["path"].encode("utf-8", "replace").decode(),
            "url.scheme": request.scope.get("scheme", "http"),
            "http.request.body.size": request.body_bytes,
            "zoo.request_id": request.id,
        }
        if route:
            attributes["http.route"] = route
        item = request.item
        if item is not None:
            attributes |= {"zoo.model": item.runner.model.card.name, "zoo.images": item.image_count}
        span = self._tracer.start_span(
            f"{request.method} {route}" if route else request.method,
            _parent(request.scope["headers"]),
            trace.SpanKind.SERVER,
            attributes,
            start_time=start_ns,
        )
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        if item is not None and item.queued_at and span.is_recording():
            context = trace.set_span_in_context(span)
            stage_ns = now_ns - int((now - item.queued_at) * 1e9)
            for name, seconds in (("queue", item.queue_s), ("decode", item.decode_s), ("infer", item.infer_s)):
                stage = self._tracer.start_span(name, context, start_time=stage_ns)
                stage_ns += int(seconds * 1e9)
                stage.end(stage_ns)
        span.end(now_ns)
        own = span.get_span_context()
        return {"trace_id": f"{own.trace_id:032x}", "span_id": f"{own.span_id:016x}"}

    def close(self) -> None:
        """Send the spans that wait."""
        self._provider.shutdown()


def _parent(headers: Headers) -> Any:
    """The caller's span as a context of OpenTelemetry; an empty one without a valid traceparent."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    match = parse_traceparent(headers)
    if match is None:
        return Context()
    caller = trace.SpanContext(
        int(match["trace"], 16),
        int(match["span"], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(match["flags"], 16)),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(caller), Context())


def start_tracer(settings: Settings) -> Tracer | None:
    """A tracer that sends spans over OTLP, if the settings or the environment ask for one.

    Raises ZooError if the settings do and the packages are missing. For the environment, which an operator may set for
    all containers, that is a message.
    """
    in_environment = any(os.environ.get(name) for name in ENDPOINTS) and os.environ.get("OTEL_SDK_DISABLED") != "true"
    if not (in_environment if settings.otel is None else settings.otel):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return Tracer(OTLPSpanExporter())
    except ImportError as error:
        message = not_importable("OpenTelemetry", error, "otel")
        if settings.otel:
            raise ZooError(message) from None
        say(f"zoo: {message} No spans are sent.")
        return None
