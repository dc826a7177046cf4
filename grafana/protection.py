"""The health board's row on limits and protection: what holds callers back, and what spares the upstreams."""

from grafana_foundation_sdk.builders import timeseries
from grafana_foundation_sdk.models.common import LineInterpolation
from panels import graph, rate, row, series, share


def protection() -> list[timeseries.Panel]:
    """Two lines of panels: the limits and how near they are, then breakers, retries and drains."""
    return [
        *row(_callers(), _turned_away(), _upstream_pool()),
        *row(_breakers(), _retries(), _retry_budget(), _draining()),
    ]


def _callers() -> timeseries.Panel:
    description = (
        "Callers' open connections in the `max_connections` of all workers, idle ones too. Each worker refuses what is"
        " beyond its own, so one may do so before all are full."
    )
    lines = {
        "{{instance}}": share("instance", series("nox_proxy_connections"), series("nox_proxy_connections_limit")),
    }
    return graph("Callers' connections, of the limit", description, "percentunit", lines)


def _turned_away() -> timeseries.Panel:
    description = (
        "Connections a second that got a 503 because there were too many, and requests a second that were not whole in"
        " time, by what was not: header or body. Few of them are among the calls above."
    )
    lines = {
        "refused": f"sum({rate('nox_proxy_connections_refused_total')})",
        "{{kind}} not whole": f"sum by (kind) ({rate('nox_proxy_caller_timeouts_total')})",
    }
    return graph("Callers refused and timed out", description, "reqps", lines)


def _upstream_pool() -> timeseries.Panel:
    description = (
        "Connections with a call on them in the upstream's `max_connections`. At 100 % calls wait for one, and then get"
        ' a 503. Not with `transport = "httpx"`.'
    )
    active = series("nox_proxy_upstream_connections", 'state="active"')
    limit = series("nox_proxy_upstream_connections_limit")
    lines = {"{{instance}} {{upstream}}": share("instance, upstream", active, limit)}
    return graph("Upstream connections, of the limit", description, "percentunit", lines)


def _breakers() -> timeseries.Panel:
    description = (
        "Workers that send an upstream nothing for now, or one trial at a time. Where nobody calls, there is no trial,"
        " and it stays open. The calls it refuses are among the upstream failures, as `breaker_open`."
    )
    lines = {"{{upstream}}": f"sum by (upstream) ({series('nox_proxy_breaker_open')})"}
    return _counted(graph("Breakers open", description, "short", lines))


def _retries() -> timeseries.Panel:
    description = "Connects a second that failed and were tried once more. Nothing else is ever sent twice."
    lines = {"{{upstream}}": f"sum by (upstream) ({rate('nox_proxy_upstream_retries_total')})"}
    return graph("Retries", description, "reqps", lines)


def _retry_budget() -> timeseries.Panel:
    description = (
        "Connects that may be tried again now: at most a tenth of the calls of the last 10 seconds. At 0 a connect that"
        " fails is given up at once, so that a dying upstream gets no storm."
    )
    lines = {"{{upstream}}": f"sum by (upstream) ({series('nox_proxy_upstream_retry_budget')})"}
    return _counted(graph("Retry budget", description, "short", lines))


def _draining() -> timeseries.Panel:
    description = "Workers that are about to end: they finish what runs, then take nothing more."
    lines = {"{{instance}}": f"sum by (instance) ({series('nox_proxy_draining')})"}
    return _counted(graph("Workers draining", description, "short", lines))


def _counted(panel: timeseries.Panel) -> timeseries.Panel:
    """Whole numbers, each of which holds until the next."""
    return panel.line_interpolation(LineInterpolation.STEP_AFTER).decimals(0)
