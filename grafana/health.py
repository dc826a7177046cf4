"""The board "Proxy health": rate, errors and latency by endpoint and upstream, saturation, limits, drift, versions."""

from grafana_foundation_sdk.builders import dashboard, timeseries
from grafana_foundation_sdk.models.common import LineInterpolation
from panels import board, graph, quantiles, rate, row, series, share
from protection import protection

REQUESTS = "nox_proxy_requests_total"
FAILED = 'status=~"5.."'
SENT = 'upstream!="none"'


def health() -> dashboard.Dashboard:
    """The board for whoever runs the proxy."""
    return board(
        "nox-proxy-health",
        "nox-proxy / Proxy health",
        "Rate, errors and latency of the proxy and of what it calls.",
        since="now-1h",
        refresh="1m",
        rows={
            "Calls, by endpoint": row(_calls(), _statuses(), _errors(), _latency()),
            "Upstreams": row(_upstream_calls(), _upstream_errors(), _upstream_failures(), _upstream_latency()),
            "Saturation": row(_in_progress(), _connections()),
            "Limits and protection": protection(),
            "Drift and versions": row(_drift(), _versions()),
        },
    )


def _calls() -> timeseries.Panel:
    description = "Calls answered a second, whatever the answer was."
    return graph("Calls", description, "reqps", {"{{endpoint}}": f"sum by (endpoint) ({rate(REQUESTS)})"})


def _statuses() -> timeseries.Panel:
    description = "Answers a second. 410 is a brownout or the sunset; 499 is a caller that left before its answer."
    lines = {"{{status}}": f"sum by (status) ({rate(REQUESTS)})"}
    return graph("Answers by status", description, "reqps", lines, stacked=True)


def _errors() -> timeseries.Panel:
    description = "The share of answers from 500 on: an upstream's own, and ours where it gave no usable answer."
    lines = {"{{endpoint}}": share("endpoint", rate(REQUESTS, FAILED), rate(REQUESTS))}
    return graph("Server errors", description, "percentunit", lines)


def _latency() -> timeseries.Panel:
    description = "From a call's head to its answer, the upstream's share included."
    return graph("Latency", description, "s", quantiles("nox_proxy_request_duration_seconds", "endpoint"))


def _upstream_calls() -> timeseries.Panel:
    description = "Calls a second that were sent on, by the upstream that was asked last: of a fallback, v1."
    return graph("Calls sent on", description, "reqps", {"{{upstream}}": f"sum by (upstream) ({rate(REQUESTS, SENT)})"})


def _upstream_errors() -> timeseries.Panel:
    description = (
        "The share of calls sent on that the caller saw end in an answer from 500 on. A fallback is a failure of v2's"
        " that the caller did not see: it is among those by reason."
    )
    lines = {"{{upstream}}": share("upstream", rate(REQUESTS, SENT, FAILED), rate(REQUESTS, SENT))}
    return graph("Upstream errors", description, "percentunit", lines)


def _upstream_failures() -> timeseries.Panel:
    description = (
        "Calls a second without a usable answer, by RFC 9209's error types, as Proxy-Status names them; `breaker_open`"
        " are those that were not sent, for too many before them had failed."
    )
    failures = f"sum by (upstream, reason) ({rate('nox_proxy_upstream_failures_total')})"
    return graph(
        "Upstream failures by reason", description, "reqps", {"{{upstream}} {{reason}}": failures}, stacked=True
    )


def _upstream_latency() -> timeseries.Panel:
    description = "The upstream's share of a call. What the breaker refused took none: while it is open, lines sink."
    return graph("Upstream latency", description, "s", quantiles("nox_proxy_upstream_duration_seconds", "upstream"))


def _in_progress() -> timeseries.Panel:
    description = "Calls being answered now. A line that climbs while the rate does not means that something is slow."
    lines = {"{{instance}}": f"sum by (instance) ({series('nox_proxy_requests_in_progress')})"}
    return graph("Calls in progress", description, "short", lines)


def _connections() -> timeseries.Panel:
    description = (
        "Connections to upstreams. Active near the setting `max_connections` means that calls wait for one; idle are"
        " kept for the next call."
    )
    lines = {"{{upstream}} {{state}}": f"sum by (upstream, state) ({series('nox_proxy_upstream_connections')})"}
    return graph("Upstream connections", description, "short", lines, stacked=True)


def _drift() -> timeseries.Panel:
    description = "Answers a second that the upstream's description does not cover. They are passed on all the same."
    lines = {"{{upstream}} {{kind}}": f"sum by (upstream, kind) ({rate('nox_proxy_upstream_drift_total')})"}
    return graph("Drift", description, "reqps", lines)


def _versions() -> timeseries.Panel:
    description = "Instances by the version they run: two lines during a rollout."
    panel = graph(
        "Versions running",
        description,
        "short",
        {"{{version}}": f"sum by (version) ({series('nox_proxy_build_info')})"},
    )
    return panel.line_interpolation(LineInterpolation.STEP_AFTER).decimals(0)
