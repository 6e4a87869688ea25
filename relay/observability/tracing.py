"""OpenTelemetry traces, from the sign-up's request to Dub's answer.

Off unless RELAY_TRACES_EXPORT asks for them; this module is loaded only then, as it
needs the extra ``dub-relay[otel]``. Where the spans go is set with OpenTelemetry's own
variables (OTEL_EXPORTER_OTLP_ENDPOINT, ...). The trace context of the request is kept
in the lead's ``origin`` as W3C's ``traceparent``, so that a delivery days later, by
another process, belongs to the same trace. No span holds anything of a person's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from relay.core import VERSION
from relay.core.leads import Lead

TRACEPARENT: Final = "traceparent"
"""The key in a lead's origin: https://www.w3.org/TR/trace-context/."""

_propagator: Final = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of one process and sends them off in batches."""

    def __init__(self, prefix: str, takes_sign_ups: Callable[[str], bool]) -> None:
        service = os.environ.get("OTEL_SERVICE_NAME", "dub-relay")
        about = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: VERSION})
        self._provider = TracerProvider(resource=about)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("dub-relay", VERSION)
        self._prefix = f"{prefix}/"
        self._takes_sign_ups = takes_sign_ups

    def close(self) -> None:
        """Send off what is left; takes as long as the collector, at most 30 s."""
        self._provider.shutdown()

    def middleware(self) -> Middleware:
        """Return what makes a span of each request that may bring a sign-up."""

        @web.middleware
        async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.method != "POST":
                return await handler(request)
            own = self._is_own(request)
            name = request.path if own else "proxied"
            # A visitor's trace is nothing to join; a site's own is.
            parent = _propagator.extract(request.headers) if own else Context()
            span = self._tracer.start_span(
                f"POST {name}", parent, SpanKind.SERVER, {"http.route": name}
            )
            with trace.use_span(span, end_on_exit=False):
                answer = await handler(request)
            span.set_attribute("http.response.status_code", answer.status)
            # What is not ended is not sent: a proxied POST that was no sign-up.
            if own or _LEAD in (getattr(span, "attributes", None) or {}):
                span.end()
            return answer

        return traced

    def _is_own(self, request: web.Request) -> bool:
        # Of a path that there is: any other would make a name for each.
        below = request.path.removeprefix(self._prefix)
        known = getattr(request.match_info.route.resource, "canonical", None)
        return known == request.path != below and self._takes_sign_ups(below)

    def stamp(self, lead_id: str, origin: Mapping[str, str]) -> Mapping[str, str]:
        """Return the origin of a lead with the present span's context in it."""
        span = trace.get_current_span()
        if not span.get_span_context().is_valid:
            return origin
        span.set_attribute(_LEAD, lead_id)
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return {**origin, **carrier}

    @contextmanager
    def delivery(self, lead: Lead) -> Iterator[Span]:
        """Make a span of one delivery, in the trace of the sign-up's request."""
        parent = _propagator.extract(
            {TRACEPARENT: lead.origin.get(TRACEPARENT, "")}, Context()
        )
        with self._tracer.start_as_current_span(
            "deliver lead", parent, SpanKind.CONSUMER, {_LEAD: lead.id}
        ) as span:
            yield span

    @contextmanager
    def call(self, step: str) -> Iterator[Span]:
        """Make a span of one call to Dub."""
        with self._tracer.start_as_current_span(
            f"POST /track/lead ({step})",
            kind=SpanKind.CLIENT,
            attributes={"http.request.method": "POST", "dub_relay.step": step},
        ) as span:
            yield span


_LEAD: Final = "dub_relay.lead"


def describe(span: Span, *, meaning: str, status: int | None, failed: bool) -> None:
    """Write on a call's span how it ended."""
    span.set_attribute("dub_relay.meaning", meaning)
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    if failed:
        span.set_status(StatusCode.ERROR, meaning)
