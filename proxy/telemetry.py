"""One Exchange record a request, and what reads it: Prometheus and a JSON line."""

import asyncio
import logging
import os
import select
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from proxy import __version__
from proxy.policy.credentials import Credential
from proxy.policy.manufacturers import Manufacturers

_log = logging.getLogger(__name__)

MAX_WAITING_LINES = 10_000
RETRY_SECONDS = 0.05

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(slots=True)
class Exchange:
    """What one request was and became. `pipeline.py` writes it, the sinks below only read it.

    Times are in seconds. No user ID, device ID or body is ever in it.
    """

    request_id: bytes
    started: float = field(default_factory=perf_counter)
    endpoint: str = "unmatched"
    credential: Credential | None = None
    key_accepted: bool = False
    upstream: str = "none"
    upstream_seconds: float | None = None
    upstream_failure: str | None = None
    drifted: bool = False
    unmapped: tuple[str, ...] = ()
    status: int = 500
    outcome: str = "crashed"
    """`answered`, or the `error_code` that the caller got."""


class Telemetry:
    """The sinks. `write_line` takes one whole log line; None turns the access log off."""

    def __init__(self, manufacturers: Manufacturers, write_line: Callable[[bytes], None] | None) -> None:
        self._manufacturers = manufacturers
        self._write_line = write_line
        self._metrics = _Metrics()

    def begin(self) -> None:
        """A request has come."""
        self._metrics.in_progress.inc()

    def finish(self, exchange: Exchange) -> None:
        """A request is over, whatever became of it."""
        seconds = perf_counter() - exchange.started
        key = exchange.credential
        manufacturer = self._manufacturers.name(key.digest if key else None, accepted=exchange.key_accepted)
        self._metrics.in_progress.dec()
        self._metrics.observe(exchange, manufacturer, seconds)
        if self._write_line is not None:
            self._write_line(_line(exchange, manufacturer, seconds))

    def crash(self, exchange: Exchange, bug: Exception) -> None:
        """A bug of ours: its type and where it arose. Its own words may hold a caller's values."""
        where = "".join(traceback.format_tb(bug.__traceback__))
        _log.error("request %s crashed: %s\n%s", exchange.request_id.decode(), type(bug).__name__, where.rstrip())

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, in OpenMetrics where `accept` asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._metrics.registry), content_type


class _Metrics:
    """The series, in a registry of their own: no process or platform series beside them."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.in_progress = Gauge(
            "nox_proxy_requests_in_progress", "Requests being answered now.", registry=self.registry
        )
        self._requests = self._counter(
            "nox_proxy_requests_total", "Requests answered.", "endpoint", "manufacturer", "upstream", "status"
        )
        self._durations = self._histogram(
            "nox_proxy_request_duration_seconds", "From a request's head to its answer.", "endpoint", "upstream"
        )
        self._upstream_durations = self._histogram(
            "nox_proxy_upstream_duration_seconds", "An upstream's share of it.", "upstream"
        )
        self._failures = self._counter(
            "nox_proxy_upstream_failures_total", "Calls without a usable answer.", "upstream", "reason"
        )
        self._drift = self._counter(
            "nox_proxy_upstream_drift_total", "Answers that their description does not cover.", "upstream", "kind"
        )
        self._unmapped = self._counter(
            "nox_proxy_unmapped_fields_total",
            "Calls with a field that v2 has no room for.",
            "endpoint",
            "manufacturer",
            "field",
        )
        self._schemes = self._counter(
            "nox_proxy_credential_scheme_total", "Calls by the header their key came in.", "manufacturer", "scheme"
        )
        build = Gauge("nox_proxy_build_info", "Always 1.", ["version"], registry=self.registry)
        build.labels(__version__).set(1)

    def observe(self, exchange: Exchange, manufacturer: str, seconds: float) -> None:
        """Counts one exchange."""
        endpoint, upstream = exchange.endpoint, exchange.upstream
        self._requests[endpoint, manufacturer, upstream, str(exchange.status)].inc()
        self._durations[endpoint, upstream].observe(seconds)
        if exchange.upstream_seconds is not None:
            self._upstream_durations[upstream,].observe(exchange.upstream_seconds)
        if exchange.upstream_failure:
            self._failures[upstream, exchange.upstream_failure].inc()
        if exchange.drifted:
            self._drift[upstream, "unknown_field"].inc()
        for name in exchange.unmapped:
            self._unmapped[endpoint, manufacturer, name].inc()
        if exchange.credential:
            self._schemes[manufacturer, exchange.credential.scheme].inc()

    def _counter(self, name: str, text: str, *labels: str) -> "_Children[Counter]":
        return _Children(Counter(name, text, labels, registry=self.registry))

    def _histogram(self, name: str, text: str, *labels: str) -> "_Children[Histogram]":
        return _Children(Histogram(name, text, labels, buckets=_BUCKETS, registry=self.registry))


Metric = TypeVar("Metric", Counter, Histogram)


class _Children(dict[tuple[str, ...], Metric]):
    """A metric's children by their label values: a dict's look-up costs a quarter of `labels()`."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric: Metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> Metric:
        child: Metric = self._metric.labels(*labels)
        self[labels] = child
        return child


class _Line(msgspec.Struct, frozen=True, gc=False):
    """The access log's line. `key` is a fingerprint."""

    time: str
    request_id: str
    endpoint: str
    manufacturer: str
    key: str | None
    upstream: str
    status: int
    error_code: str | None
    seconds: float
    upstream_seconds: float | None


_encode = msgspec.json.Encoder().encode


def _line(exchange: Exchange, manufacturer: str, seconds: float) -> bytes:
    spent = exchange.upstream_seconds
    return _encode(
        _Line(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            request_id=exchange.request_id.decode(),
            endpoint=exchange.endpoint,
            manufacturer=manufacturer,
            key=exchange.credential.fingerprint if exchange.credential else None,
            upstream=exchange.upstream,
            status=exchange.status,
            error_code=None if exchange.outcome == "answered" else exchange.outcome,
            seconds=round(seconds, 6),
            upstream_seconds=None if spent is None else round(spent, 6),
        )
    )


class LineWriter:
    """Lines to a file descriptor, those of one turn of the event loop together, and never a wait for its reader.

    A ready pipe or socket takes PIPE_BUF bytes at once (poll(2), pipe(7)), so no write is larger. What a slow
    reader leaves is kept up to MAX_WAITING_LINES; beyond that lines are lost, never calls.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._flushes = False
        self._lost = 0
        self._fails = False

    def __call__(self, line: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING_LINES:
            self._lost += 1
            return
        self._waiting.append(line)
        if not self._flushes:
            self._flushes = True
            asyncio.get_running_loop().call_soon(self._flush_and_retry)

    def flush(self) -> None:
        """Writes what its reader takes now."""
        try:
            while self._waiting and self._writable.poll(0):
                os.write(self._descriptor, self._next_write())
                self._fails = False
        except OSError as error:
            self._waiting.clear()
            if not self._fails:
                _log.warning("access log: %s; lines are lost", error.strerror)
            self._fails = True
        if not self._waiting:
            self._report()

    def close(self) -> None:
        """Writes what its reader takes now, for the last time."""
        self.flush()
        self._lost += len(self._waiting)
        self._waiting.clear()
        self._report()

    def _report(self) -> None:
        if self._lost:
            _log.warning("access log: its reader was too slow, %d lines are lost", self._lost)
            self._lost = 0

    def _flush_and_retry(self) -> None:
        self.flush()
        self._flushes = bool(self._waiting)
        if self._flushes:
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._flush_and_retry)

    def _next_write(self) -> bytes:
        """The lines that fit into one write; one that never would is cut."""
        data = self._waiting.popleft()[: select.PIPE_BUF - 1] + b"\n"
        while self._waiting and len(data) + len(self._waiting[0]) < select.PIPE_BUF:
            data += self._waiting.popleft() + b"\n"
        return data
