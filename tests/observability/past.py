"""The past that queries of days and weeks need, as Prometheus would have recorded it, and jobs in other states."""

from collections.abc import Iterator

from tests.observability.prometheus import line

MINUTE, HOUR, DAY = 60, 3_600, 86_400
NAME = "connect_nox_user"
ENDPOINT = {"endpoint": NAME}
JOB = {"job": "nox-proxy"}
FORMER = {**JOB, "instance": "former", **ENDPOINT}
"""An instance of the proxy's that is no more."""

SLOT = (4 * HOUR, HOUR)
"""A week before the next brownout, in seconds before now: its beginning and its end."""
RATES = {"acme": 0.1, "borealis": 0.2}
"""Calls a second around that time; the next brownout exempts the second."""

_DAILY = "nox_proxy:legacy_calls:increase1d"
_LEGACY = "nox_proxy:legacy_calls:sum"
_DIRECT = "nox_proxy:direct_calls:sum"
_RATE = "nox_proxy:legacy_calls:rate5m"
_LAST_SEEN = "job_endpoint_manufacturer:nox_proxy_legacy_last_seen_timestamp_seconds:max"
_ERRORS = "job_instance_endpoint:nox_proxy_legacy_errors:sum"
_CALLS = "job_instance_endpoint:nox_proxy_legacy_calls:sum"
_SUNSET = "nox_proxy_sunset_timestamp_seconds"


def past(now: int) -> Iterator[str]:
    """As lines of OpenMetrics."""
    yield from _falling(now)
    yield from _week_earlier(now)
    yield from _failing(now)
    yield line(_LAST_SEEN, {**JOB, **ENDPOINT, "manufacturer": "borealis"}, now - 20 * DAY, now - 20 * DAY)
    yield from _returning(now)
    yield from _other_jobs(now)
    yield from _strained(now)


def _falling(now: int) -> Iterator[str]:
    """Calls a day over 28 days, at each full hour, where the board's subqueries look."""
    hours = 28 * 24
    last = now - now % HOUR
    for ago in range(hours, -1, -1):
        yield line(_DAILY, {**FORMER, "manufacturer": "acme"}, last - ago * HOUR, 500 + 2 * ago)


def _week_earlier(now: int) -> Iterator[str]:
    """From an hour before the slot to half an hour after it, at each 5 minutes."""
    first, last = now - SLOT[0] - HOUR, now - SLOT[1] + HOUR // 2
    for manufacturer, rate in RATES.items():
        for time in range(first - first % 300, last, 300):
            yield line(_RATE, {**FORMER, "manufacturer": manufacturer}, time, rate)


def _failing(now: int) -> Iterator[str]:
    """3 days in which 1 of 40 calls fails: enough for every window of the error budget's alerts."""
    quarters = 3 * 24 * 4
    for metric, each in ((_CALLS, 40), (_ERRORS, 1)):
        for number in range(quarters + 1):
            yield line(metric, FORMER, now - (quarters - number) * 15 * MINUTE, number * each)


def _returning(now: int) -> Iterator[str]:
    """Two weeks, by the day, until an hour ago: in the first v2 was called directly, in the second v1."""
    manufacturer = {"manufacturer": "returner"}
    for metric, labels, first in ((_DIRECT, {**JOB, "instance": "former"}, 0), (_LEGACY, FORMER, 7)):
        for day in range(15):
            calls = 100 * min(max(0, day - first), 7)
            yield line(metric, {**labels, **manufacturer}, now - HOUR - (14 - day) * DAY, calls)


def _other_jobs(now: int) -> Iterator[str]:
    """For alerts that exclude each other: a job each. What is said of now holds for 5 minutes."""
    soon, past_it, deaf = ({"job": job, "instance": job, **ENDPOINT} for job in ("soon", "past", "deaf"))
    yield line(_SUNSET, soon, now, now + 3 * DAY)
    yield line(_LAST_SEEN, {"job": "soon", **ENDPOINT, "manufacturer": "acme"}, now - DAY, now - DAY)
    yield line(_SUNSET, past_it, now, now - 2 * DAY)
    answered = {**past_it, "manufacturer": "acme", "upstream": "v2", "status": "201"}
    for time, calls in ((now - 30 * MINUTE, 100), (now, 150)):
        yield line("nox_proxy_requests_total", answered, time, calls)
    for time, failures in ((now - 10 * MINUTE, 0), (now, 8)):
        yield line(_ERRORS, deaf, time, failures)
    yield line("nox_proxy_build_info", {"job": "gone", "instance": "gone", "version": "0"}, now - 2 * HOUR, 1)
    yield line("up", {"job": "gone", "instance": "gone"}, now, 0)


def _strained(now: int) -> Iterator[str]:
    """A proxy at each of its limits, that turns callers away and does not end. Holds for 4 minutes from now on."""
    place = {"job": "strained", "instance": "strained"}
    v2 = {**place, "upstream": "v2"}
    for metric, labels in (
        ("nox_proxy_upstream_failures_total", {**v2, "reason": "breaker_open"}),
        ("nox_proxy_connections_refused_total", place),
        ("nox_proxy_caller_timeouts_total", {**place, "kind": "header"}),
    ):
        yield line(metric, labels, now - MINUTE, 0)
        yield line(metric, labels, now, 200)
    for metric, labels in (
        ("nox_proxy_connections", place),
        ("nox_proxy_upstream_connections", {**v2, "state": "active"}),
        ("nox_proxy_draining", place),
    ):
        yield line(metric, labels, now, 9)
    for metric, labels in (("nox_proxy_connections_limit", place), ("nox_proxy_upstream_connections_limit", v2)):
        yield line(metric, labels, now, 10)
