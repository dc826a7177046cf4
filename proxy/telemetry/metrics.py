"""What one request adds to the series."""

from bisect import bisect_left
from typing import NamedTuple

from proxy.contract.errors import BreakerOpen, TooManyConnections
from proxy.rules import Rules
from proxy.telemetry import series as names
from proxy.telemetry.block import Block
from proxy.telemetry.exchange import Attempt, Comparison, Exchange
from proxy.telemetry.series import BUCKETS, WORKERS, Series
from proxy.wire.upstream import UpstreamState

NOT_LEGACY = ("unmatched", "passthrough_v2")
"""Endpoints that are no v1 call: no path of ours, and v2's own."""


_Kind = tuple[str, str, str, int, str | None, tuple[str, ...]]
"""Calls that are counted alike: by endpoint, manufacturer, upstream, status, scheme and unmapped fields. The statuses
are those of HTTP, and all else is ours, so there are not many kinds."""


SUM = len(BUCKETS) + 1
"""Where a histogram's sum stands: its first cells are the buckets, and what is above them."""


class _Counts(NamedTuple):
    """Their cells: those that count one more, the first of the histogram, and of the last call's time if it counts."""

    calls: tuple[int, ...]
    durations: int
    last_seen: int | None


class Metrics:
    """One worker's counts, in its block."""

    def __init__(self, block: Block) -> None:
        self._cells = block.cells
        self._requests = _Places(block, names.REQUESTS)
        self._durations = _Places(block, names.DURATIONS)
        self._upstream_durations = _Places(block, names.UPSTREAM_DURATIONS)
        self._failures = _Places(block, names.FAILURES)
        self._connections = _Places(block, names.CONNECTIONS)
        self._upstream_limit = _Places(block, names.UPSTREAM_LIMIT)
        self._breaker_open = _Places(block, names.BREAKER_OPEN)
        self._retries = _Places(block, names.RETRIES)
        self._retry_budget = _Places(block, names.RETRY_BUDGET)
        self._drift = _Places(block, names.DRIFT)
        self._last_seen = _Places(block, names.LAST_SEEN)
        self._schemes = _Places(block, names.SCHEMES)
        self._unmapped = _Places(block, names.UNMAPPED)
        self._last_answer = _Places(block, names.LAST_ANSWER)
        self._last_failure = _Places(block, names.LAST_FAILURE)
        self._fallbacks = _Places(block, names.FALLBACKS)
        self._shadow = _Places(block, names.SHADOW)
        self._shadow_mismatches = _Places(block, names.SHADOW_MISMATCHES)
        self._timeouts = _Places(block, names.TIMEOUTS)
        self._counts: dict[_Kind, _Counts] = {}
        for kind in ("header", "body"):
            _ = self._timeouts[kind,]
        self._in_progress = block.place((names.IN_PROGRESS.name, ()))
        self._callers = block.place((names.CALLERS.name, ()))
        self._callers_limit = block.place((names.CALLERS_LIMIT.name, ()))
        self._refused = block.place((names.REFUSED.name, ()))
        self._draining = block.place((names.DRAINING.name, ()))
        self._ready = block.place((names.READY.name, ()))
        forget_running(block)

    def await_first_calls(self, rules: Rules) -> None:
        """Shows a 0 before a listed caller's first call: Prometheus' `increase` does not see a series begin at 1."""
        for endpoint in rules.endpoints:
            for manufacturer in rules.manufacturers.names:
                _ = self._requests[endpoint.change.name, manufacturer, "v2", "201"]

    def begin(self) -> None:
        """A request has come."""
        self._cells[self._in_progress] += 1

    def finish(self, exchange: Exchange, seconds: float, now: float) -> None:
        """A request is over after `seconds`. `now` in Unix seconds."""
        cells, credential = self._cells, exchange.credential
        scheme = credential.scheme if credential else None
        caller, upstream = exchange.manufacturer, exchange.upstream
        kind = (exchange.endpoint, caller, upstream, exchange.status, scheme, exchange.unmapped)
        calls, durations, last_seen = self._counts.get(kind) or self._find_counts(kind)
        cells[self._in_progress] -= 1
        for cell in calls:
            cells[cell] += 1
        cells[durations + bisect_left(BUCKETS, seconds)] += 1
        cells[durations + SUM] += seconds
        if last_seen:
            cells[last_seen] = now
        for attempt in exchange.attempts:
            self._finish_attempt(attempt, now)
        if exchange.fallback:
            cells[self._fallbacks[exchange.endpoint, exchange.fallback]] += 1
        if exchange.timed_out:
            cells[self._timeouts[exchange.timed_out,]] += 1
        elif exchange.outcome == TooManyConnections.error_code:
            cells[self._refused] += 1

    def _find_counts(self, kind: _Kind) -> _Counts:
        endpoint, manufacturer, upstream, status, scheme, unmapped = kind
        calls = [self._requests[endpoint, manufacturer, upstream, str(status)]]
        last_seen = None
        if endpoint not in NOT_LEGACY:
            last_seen = self._last_seen[endpoint, manufacturer]
            if scheme:
                calls.append(self._schemes[manufacturer, scheme])
        calls += (self._unmapped[endpoint, manufacturer, name] for name in unmapped)
        found = self._counts[kind] = _Counts(tuple(calls), self._durations[endpoint, upstream], last_seen)
        return found

    def sample_upstream(self, name: str, state: UpstreamState) -> None:
        """Notes how an upstream stands. Its retries show a 0 from the first time on."""
        if state.connections is not None:
            self._cells[self._connections[name, "active"]] = state.connections.active
            self._cells[self._connections[name, "idle"]] = state.connections.idle
        self._cells[self._upstream_limit[name,]] = state.max_connections
        self._cells[self._breaker_open[name,]] = state.is_open
        self._cells[self._retry_budget[name,]] = state.retries_left
        _ = self._retries[name,]

    def sample_callers(self, connections: int, limit: int) -> None:
        """Notes callers' connections, and how many of them this worker takes."""
        self._cells[self._callers] = connections
        self._cells[self._callers_limit] = limit

    def draining(self, is_draining: bool) -> None:
        """Notes whether this worker drains."""
        self._cells[self._draining] = is_draining

    def ready(self, is_ready: bool) -> None:
        """Notes whether this worker takes requests."""
        self._cells[self._ready] = is_ready

    def compare(self, comparison: Comparison) -> None:
        """The shadow has looked at two answers, or could not."""
        endpoint = comparison.endpoint
        self._cells[self._shadow[endpoint, comparison.verdict]] += 1
        for difference in comparison.differences:
            self._cells[self._shadow_mismatches[endpoint, difference.field]] += 1

    def _finish_attempt(self, attempt: Attempt, now: float) -> None:
        cells, upstream, failure, seconds = self._cells, attempt.upstream, attempt.failure, attempt.seconds
        if failure is not None:
            cells[self._failures[upstream, failure]] += 1
            if failure == BreakerOpen.reason:
                return  # nobody was asked
        durations = self._upstream_durations[upstream,]
        cells[durations + bisect_left(BUCKETS, seconds)] += 1
        cells[durations + SUM] += seconds
        cells[(self._last_answer if failure is None else self._last_failure)[upstream,]] = now
        if attempt.is_retry:
            self._cells[self._retries[upstream,]] += 1
        if attempt.drifted:
            self._cells[self._drift[upstream, "unknown_field"]] += 1


def forget_running(block: Block) -> None:
    """What a worker was doing is over with it; its counts stay."""
    gauges = {series.name for series in WORKERS if series.kind == "gauge"}
    for (name, _), (first, _width) in block.series().items():
        if name in gauges:
            block.cells[first] = 0


class _Places(dict[tuple[str, ...], int]):
    """A series' first cells by its label values: one look-up on the hot path."""

    def __init__(self, block: Block, series: Series) -> None:
        super().__init__()
        self._block = block
        self._name = series.name
        self._width = series.width

    def __missing__(self, labels: tuple[str, ...]) -> int:
        self[labels] = first = self._block.place((self._name, labels), self._width)
        return first
