"""Spans of the requests, over OTLP, named as OpenTelemetry's HTTP conventions have it; OpenTelemetry's one home.

Where to, how many and how often is read by OpenTelemetry itself, from its OTEL_* variables. Spans leave by a thread
of its own: a collector that is slow or gone costs spans, never a call. No key, ID, path or query is in a span.
"""

import contextlib
import logging
import threading
from collections.abc import Iterable, Mapping
from time import monotonic, time_ns
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy import __version__
from proxy.contract.messages import Field, Request
from proxy.telemetry.exchange import Attempt, Exchange
from proxy.wire import headers

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""How long the last spans may hold up the end of a process."""
SILENCE_SECONDS = 600.0

Address = tuple[str, int]

_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_OTHER = "_OTHER"
"""Any other method, so that no caller's word is in a span."""
_PORTS = {"http": 80, "https": 443}

_propagator = TraceContextTextMapPropagator()


class Spans:
    """One worker's spans. `routes`: the v1 paths by endpoint; `urls`: the upstreams' by name."""

    def __init__(self, routes: Mapping[str, str], urls: Mapping[str, str]) -> None:
        _speak_discreetly()
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("nox-proxy", __version__)
        self._routes = routes
        self._addresses = {name: _address(url) for name, url in urls.items()}

    def begin(self, request: Request) -> "Trace":
        """A request has come."""
        return Trace(self._tracer, self._routes, self._addresses, request)

    def close(self) -> None:
        """Hands over what is left. The SDK would wait for 30 seconds, and takes no other bound."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(FLUSH_SECONDS)


class Trace:
    """One request's spans: the caller's, and one for each call to an upstream."""

    def __init__(
        self, tracer: Tracer, routes: Mapping[str, str], addresses: Mapping[str, Address], request: Request
    ) -> None:
        self._tracer = tracer
        self._routes = routes
        self._addresses = addresses
        self._method = request.method if request.method in _METHODS else _OTHER
        came = {name.decode(): value.decode() for name, value in headers.trace_context(request.fields)}
        self._caller = tracer.start_span(
            self._name(None),
            _propagator.extract(came),
            SpanKind.SERVER,
            {"http.request.method": self._method},
        )
        self._calls: list[tuple[Span, int]] = []

    def send(self, upstream: str) -> Iterable[Field]:
        """A call goes to an upstream; returns the header lines that carry the trace on."""
        sent = time_ns()
        host, port = self._addresses[upstream]
        call = self._tracer.start_span(
            self._name(None),
            set_span_in_context(self._caller),
            SpanKind.CLIENT,
            {"http.request.method": self._method, "server.address": host, "server.port": port},
            start_time=sent,
        )
        self._calls.append((call, sent))
        lines: dict[str, str] = {}
        _propagator.inject(lines, set_span_in_context(call))
        return [(name.encode(), value.encode()) for name, value in lines.items()]

    def finish(self, exchange: Exchange) -> None:
        """The request is over."""
        for (call, sent), attempt in zip(self._calls, exchange.attempts, strict=False):
            _judge(call, attempt.status, _fault_of_call(attempt, exchange))
            call.end(sent + int(attempt.seconds * 1e9))
        route = self._routes.get(exchange.endpoint)
        if route is not None:
            self._caller.update_name(self._name(route))
            self._caller.set_attribute("http.route", route)
        self._caller.set_attribute("nox_proxy.endpoint", exchange.endpoint)
        self._caller.set_attribute("nox_proxy.manufacturer", exchange.manufacturer)
        _judge(self._caller, exchange.status, _fault_of_request(exchange))
        self._caller.end()

    def _name(self, route: str | None) -> str:
        method = "HTTP" if self._method == _OTHER else self._method
        return f"{method} {route}" if route else method


def _fault_of_call(attempt: Attempt, exchange: Exchange) -> str | None:
    """The `error.type` of a call: to the one who calls, a 4xx is an error too."""
    if attempt.failure is not None:
        return attempt.failure
    if attempt.status is None:
        return exchange.outcome  # cut short by us: the drain ran out of time, or a bug
    return str(attempt.status) if attempt.status >= 400 else None


def _fault_of_request(exchange: Exchange) -> str | None:
    if exchange.status < 500:
        return None
    return exchange.outcome if exchange.outcome != "answered" else str(exchange.status)


def _judge(span: Span, status: int | None, fault: str | None) -> None:
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    if fault is not None:
        span.set_attribute("error.type", fault)
        span.set_status(StatusCode.ERROR)


def _resource() -> Resource:
    """Who sends: our name, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES says another."""
    ours = Resource({SERVICE_NAME: "nox-proxy", SERVICE_VERSION: __version__})
    return Resource.create(dict(ours.merge(OTELResourceDetector().detect()).attributes))


def _address(url: str) -> Address:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


class _Discreet(logging.Handler):
    """Passes on what OpenTelemetry says, each text once in SILENCE_SECONDS, and of its values the numbers alone.

    The others may be a caller's `tracestate`, or a token out of OTEL_EXPORTER_OTLP_HEADERS.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._silent_until: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text, now = str(record.msg), monotonic()
        if now < self._silent_until.get(text, 0.0):
            return
        self._silent_until[text] = now + SILENCE_SECONDS
        if isinstance(record.args, tuple) and record.args:
            with contextlib.suppress(TypeError):  # a format that asks for more than "…"
                text %= tuple(value if isinstance(value, int | float) else "…" for value in record.args)
        _log.log(record.levelno, "spans: %s", text)


def _speak_discreetly() -> None:
    """urllib3 carries the spans, and speaks of the collector's URL."""
    for name in ("opentelemetry", "urllib3"):
        logger = logging.getLogger(name)
        logger.handlers = [_Discreet()]
        logger.propagate = False
