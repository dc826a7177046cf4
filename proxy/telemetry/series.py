"""The series by name: those that each worker counts, and those that are read off the schedules."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "latest", "histogram"]
"""What becomes of several workers' values: they are added, but of `latest` the greatest counts."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Series(NamedTuple):
    """A metric. One whose name lacks the prefix is for the admin port alone."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Its cells: of a histogram one a bucket, one for what is above them, one for the sum."""
        return len(BUCKETS) + 2 if self.kind == "histogram" else 1


REQUESTS = Series(
    "nox_proxy_requests_total", "counter", "Requests answered.", ("endpoint", "manufacturer", "upstream", "status")
)
DURATIONS = Series(
    "nox_proxy_request_duration_seconds", "histogram", "From a request's head to its answer.", ("endpoint", "upstream")
)
IN_PROGRESS = Series("nox_proxy_requests_in_progress", "gauge", "Requests being answered now.")
UPSTREAM_DURATIONS = Series(
    "nox_proxy_upstream_duration_seconds", "histogram", "An upstream's share of a request.", ("upstream",)
)
FAILURES = Series(
    "nox_proxy_upstream_failures_total", "counter", "Calls without a usable answer.", ("upstream", "reason")
)
CONNECTIONS = Series(
    "nox_proxy_upstream_connections", "gauge", "Open connections, looked at each second.", ("upstream", "state")
)
DRIFT = Series(
    "nox_proxy_upstream_drift_total",
    "counter",
    "Answers that their description does not cover.",
    ("upstream", "kind"),
)
LAST_SEEN = Series(
    "nox_proxy_legacy_last_seen_timestamp_seconds",
    "latest",
    "A manufacturer's last call, in Unix seconds.",
    ("endpoint", "manufacturer"),
)
SCHEMES = Series(
    "nox_proxy_credential_scheme_total",
    "counter",
    "Calls by the header their key came in.",
    ("manufacturer", "scheme"),
)
UNMAPPED = Series(
    "nox_proxy_unmapped_fields_total",
    "counter",
    "Calls with a field that v2 has no room for.",
    ("endpoint", "manufacturer", "field"),
)
LAST_ANSWER = Series("last_answer", "latest", "An upstream's last answer, in Unix seconds.", ("upstream",))
LAST_FAILURE = Series("last_failure", "latest", "An upstream's last failure, in Unix seconds.", ("upstream",))
FALLBACKS = Series(
    "nox_proxy_fallbacks_total",
    "counter",
    "Calls that went on to v1, for v2 took nothing of them.",
    ("endpoint", "reason"),
)
SHADOW = Series(
    "nox_proxy_shadow_comparisons_total", "counter", "Answers of v1's compared with v2's.", ("endpoint", "verdict")
)
SHADOW_MISMATCHES = Series(
    "nox_proxy_shadow_mismatches_total", "counter", "Fields in which the two answers differ.", ("endpoint", "field")
)
BREAKER_OPEN = Series(
    "nox_proxy_breaker_open", "gauge", "Workers that send an upstream no calls, or one trial.", ("upstream",)
)
RETRIES = Series("nox_proxy_upstream_retries_total", "counter", "Connects that were tried again.", ("upstream",))
RETRY_BUDGET = Series(
    "nox_proxy_upstream_retry_budget", "gauge", "Connects that may be tried again now.", ("upstream",)
)
UPSTREAM_LIMIT = Series(
    "nox_proxy_upstream_connections_limit", "gauge", "Connections that may be open at most.", ("upstream",)
)
CALLERS = Series("nox_proxy_connections", "gauge", "Callers' open connections, looked at each second.")
CALLERS_LIMIT = Series("nox_proxy_connections_limit", "gauge", "Callers' connections that may be open at most.")
REFUSED = Series("nox_proxy_connections_refused_total", "counter", "Callers' connections beyond the limit.")
TIMEOUTS = Series(
    "nox_proxy_caller_timeouts_total", "counter", "Requests that were not whole in time, by what was not.", ("kind",)
)
DRAINING = Series("nox_proxy_draining", "gauge", "Workers that drain.")
READY = Series("ready_workers", "gauge", "Workers that take requests.")
RELOAD_OK = Series("nox_proxy_config_last_reload_successful", "gauge", "Whether the settings last read were good.")
RELOAD_AT = Series(
    "nox_proxy_config_last_reload_success_timestamp_seconds",
    "latest",
    "When good settings were last read, in Unix seconds.",
)

WORKERS = (
    REQUESTS,
    DURATIONS,
    IN_PROGRESS,
    UPSTREAM_DURATIONS,
    FAILURES,
    CONNECTIONS,
    DRIFT,
    LAST_SEEN,
    SCHEMES,
    UNMAPPED,
    LAST_ANSWER,
    LAST_FAILURE,
    FALLBACKS,
    SHADOW,
    SHADOW_MISMATCHES,
    BREAKER_OPEN,
    RETRIES,
    RETRY_BUDGET,
    UPSTREAM_LIMIT,
    CALLERS,
    CALLERS_LIMIT,
    REFUSED,
    TIMEOUTS,
    DRAINING,
    READY,
    RELOAD_OK,
    RELOAD_AT,
)
"""What the processes count: each worker, and of a reload the one that reads the settings."""

ROLLOUT = Series("nox_proxy_rollout_v2_ratio", "gauge", "The share of calls set to go to v2.", ("endpoint",))

DEPRECATED_AT = Series("nox_proxy_deprecation_timestamp_seconds", "gauge", "Deprecated since.", ("endpoint",))
SUNSET_AT = Series("nox_proxy_sunset_timestamp_seconds", "gauge", "To be switched off at.", ("endpoint",))
BROWNOUT_ACTIVE = Series("nox_proxy_brownout_active", "gauge", "Whether a brownout runs.", ("endpoint",))
NEXT_START = Series(
    "nox_proxy_next_brownout_start_timestamp_seconds",
    "gauge",
    "Start of the first brownout that has not begun.",
    ("endpoint",),
)
NEXT_END = Series(
    "nox_proxy_next_brownout_end_timestamp_seconds",
    "gauge",
    "End of the first brownout that has not begun.",
    ("endpoint",),
)
NEXT_COVERS = Series(
    "nox_proxy_next_brownout_covers",
    "gauge",
    "Whether the next brownout will hit a caller.",
    ("endpoint", "manufacturer"),
)
BUILD = Series("nox_proxy_build_info", "gauge", "Always 1.", ("version",))

Labels = tuple[str, ...]
"""The values of a series' labels, in the order of their names."""

Values = Mapping[Series, Mapping[Labels, list[float]]]
"""What each series' cells hold, by label values."""
