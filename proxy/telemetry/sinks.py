"""Where each Exchange goes: the metrics, the access log and the spans. And what the shadow found: the first two."""

import logging
from collections.abc import Callable
from time import perf_counter, time
from typing import TYPE_CHECKING, Optional

from proxy.contract.messages import Request
from proxy.telemetry.access_log import write_comparison, write_line
from proxy.telemetry.bugs import described
from proxy.telemetry.exchange import Comparison, Exchange
from proxy.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from proxy.telemetry.spans import Spans, Trace

_log = logging.getLogger(__name__)


class Telemetry:
    """The sinks of one worker. `write` takes one whole log line; None turns the access log off, or the spans."""

    def __init__(
        self, metrics: Metrics, write: Callable[[bytes], None] | None, spans: Optional["Spans"] = None
    ) -> None:
        self._metrics = metrics
        self._write = write
        self._spans = spans
        self._finished: list[tuple[Exchange, float]] = []
        self.begin = metrics.begin
        """A request has come."""

    def trace(self, request: Request) -> Optional["Trace"]:
        """Its spans, for its exchange to hold; None where tracing is off."""
        return None if self._spans is None else self._spans.begin(request)

    def finish(self, exchange: Exchange) -> None:
        """A request is over, whatever became of it."""
        self.put_off(exchange)
        self.flush()

    def put_off(self, exchange: Exchange) -> None:
        """The same for one of several: all are counted and logged by `flush`, which is to come before their answers."""
        self._finished.append((exchange, perf_counter() - exchange.started))
        if exchange.trace is not None:
            exchange.trace.finish(exchange)

    def flush(self) -> None:
        """Counts and logs what is over."""
        if not self._finished:
            return
        finished, self._finished = self._finished, []
        now = time()
        for exchange, seconds in finished:
            self._metrics.finish(exchange, seconds, now)
        if self._write is not None:
            for exchange, seconds in finished:
                self._write(write_line(exchange, seconds, now))

    def compare(self, comparison: Comparison) -> None:
        """The shadow has found something."""
        self._metrics.compare(comparison)
        if self._write is not None and comparison.verdict in ("mismatch", "v1_error", "v2_error"):
            self._write(write_comparison(comparison, time()))

    def crash(self, exchange: Exchange, bug: Exception) -> None:
        """A bug of ours has ended a request."""
        _log.error("request %s crashed: %s", exchange.request_id.decode(), described(bug))
