"""The board "Deprecation progress": who still calls v1, and when it can be switched off."""

from grafana_foundation_sdk.builders import dashboard, stat, table, timeseries
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue
from panels import board, column_unit, figure, graph, listing, rate, series, share, steps

WEEK = 604_800
LEGACY = 'endpoint!~"unmatched|passthrough_v2"'  # as in the recording rules
ACCEPTED = 'manufacturer!="unauthenticated"'  # whom v2 refuses anyway, a switch-off does not hurt
LISTED = 'manufacturer!~"unauthenticated|unregistered"'

CALLS_A_DAY = f"sum({series('nox_proxy:legacy_calls:increase1d', ACCEPTED)})"
BY_MANUFACTURER = f"sum by (manufacturer) ({series('nox_proxy:legacy_calls:increase1d')})"
CALLS = f"increase({series('nox_proxy:legacy_calls:sum')}[7d])"
FAULTY = 'status=~"[45]..", status!="410"'  # a 410 is meant
ERRORS = f"increase({series('nox_proxy_requests_total', LEGACY, FAULTY)}[7d])"
DIRECT = f"increase({series('nox_proxy:direct_calls:sum')}[7d])"
UNMAPPED = f"increase({series('nox_proxy_unmapped_fields_total')}[7d])"


def progress() -> dashboard.Dashboard:
    """The board whose reader decides on brownouts and the sunset."""
    return board(
        "nox-proxy-progress",
        "nox-proxy / Deprecation progress",
        "Who still calls v1, and when it can be switched off.",
        since="now-28d",
        refresh="5m",
        rows={
            "How far along": [
                _calls_a_day().span(4).height(5),
                _manufacturers().span(4).height(5),
                _days_to_sunset().span(4).height(5),
                _last_call().span(6).height(5),
                _next_brownout().span(6).height(5),
            ],
            "Who still calls": [_callers().span(24).height(11)],
            "Where it goes": [_trend().span(12).height(9), _trend_by_manufacturer().span(12).height(9)],
            "Moved to v2": [
                _moved().span(4).height(9),
                _moved_by_manufacturer().span(10).height(9),
                _returned().span(10).height(9),
            ],
            "Brownouts": [_next_hit().span(12).height(9), _gone().span(12).height(9)],
        },
    )


def seen(*matchers: str) -> str:
    """When each manufacturer called last, if within 7 days; a restart of the proxy forgets it, Prometheus does not."""
    last = series("nox_proxy_legacy_last_seen_timestamp_seconds", *matchers)
    return f"(max by (manufacturer) (max_over_time({last}[7d])) > time() - {WEEK})"


def next_window(edge: str, at: str = "") -> str:
    """The start or end of each endpoint's next brownout; instances that differ for a moment count as the later."""
    return f"max by (endpoint) ({series(f'nox_proxy_next_brownout_{edge}_timestamp_seconds')}{at})"


def calls_of(metric: str, before: str = "") -> str:
    """Each manufacturer's in 7 days, those before now or the ones before them."""
    return f"sum by (manufacturer) (increase({series(metric, ACCEPTED)}[7d]{before}))"


def moved(by: str) -> str:
    """The part of the calls of a day that went to v2 directly."""
    v1, v2 = (series(f"nox_proxy:{each}_calls:increase1d", ACCEPTED) for each in ("legacy", "direct"))
    return share(by, v2, f"({v1} or {v2})")


def trend_line() -> str:
    """The line through the 28 days before the view's end, over all of the view: by their mean, slope and middle.

    Not by predict_linear: of `@ end()` it takes a window that moves on with every step.
    """
    history = "[28d:1h] @ end()"
    mean, slope = f"avg_over_time({CALLS_A_DAY}{history})", f"deriv({CALLS_A_DAY}{history})"
    middle = f"avg_over_time((0 * {CALLS_A_DAY} + time()){history})"
    return f"{mean} + {slope} * (time() - {middle})"


def _calls_a_day() -> stat.Panel:
    description = "Calls of v1 in the last 24 hours whose key v1 or v2 knows, whatever the answer was."
    return figure("Legacy calls, 24 h", description, "short", {"": CALLS_A_DAY}, without="0").decimals(0)


def _manufacturers() -> stat.Panel:
    description = "Manufacturers of the settings' list that called v1 in the last 7 days."
    return figure("Manufacturers still calling", description, "none", {"": f"count({seen(LISTED)})"}, without="0")


def _days_to_sunset() -> stat.Panel:
    description = "Whole days until the date in the Sunset header; below 0 it has passed."
    sunset = f"max by (endpoint) ({series('nox_proxy_sunset_timestamp_seconds')})"
    left = {"{{endpoint}}": f"floor(({sunset} - time()) / 86400)"}
    panel = figure("Days to sunset", description, "none", left, without="no sunset set").decimals(0)
    return panel.thresholds(steps("red", {7: "orange", 30: "green"}))


def _last_call() -> stat.Panel:
    description = (
        "Where the line through the calls a day of the last 28 days meets zero. It is a straight line through what was:"
        " one manufacturer that does not move shows in the table, not here."
    )
    # The unit wants milliseconds. A line that has met zero already ends now, not in the past.
    history = f"{CALLS_A_DAY}[28d:1h]"
    meets = f"1000 * (time() + clamp_min(predict_linear({history}, 0), 0) / -(deriv({history}) < 0))"
    return figure(
        "Last v1 call by the 28-day trend", description, "dateTimeAsIso", {"": meets}, without="the trend does not fall"
    )


def _next_brownout() -> stat.Panel:
    description = "The next window of the schedule that has not begun."
    dates = {f"{{{{endpoint}}}} {edge}": f"1000 * {next_window(edge)}" for edge in ("start", "end")}
    return figure("Next brownout", description, "dateTimeAsIso", dates, without="none scheduled")


def _callers() -> table.Panel:
    description = (
        "A row for each manufacturer that called in the last 7 days. `unregistered`: keys that v1 or v2 accepts and"
        " no list names; `unauthenticated`: keys missing or refused. ApiKey scheme: the share of calls with the key in"
        " `Authorization`, which v2 does not read. Unmapped field: the one they send most that v2 has no room for."
        " Errors: the share of answers from 400 on, without brownouts' 410. Moved: v2's own calls among all of theirs."
    )
    by_scheme = "nox_proxy_credential_scheme_total"
    scheme = (f"increase({series(by_scheme, *only)}[7d])" for only in (['scheme="authorization"'], []))
    queries = {
        "day": BY_MANUFACTURER,
        "week": f"sum by (manufacturer) ({CALLS})",
        "seen": f"1000 * {seen()}",
        "scheme": share("manufacturer", *scheme),
        "unmapped": f"topk by (manufacturer) (1, sum by (manufacturer, field) ({UNMAPPED}) > 0)",
        "errors": share("manufacturer", ERRORS, CALLS),
        "moved": share("manufacturer", DIRECT, f"({CALLS} or {DIRECT})"),
    }
    columns = {
        "manufacturer": "Manufacturer",
        "day": "Calls, 24 h",
        "week": "Calls, 7 d",
        "seen": "Last seen",
        "scheme": "ApiKey scheme",
        "field": "Unmapped field",
        "unmapped": "Calls with it, 7 d",
        "errors": "Errors, 7 d",
        "moved": "Moved to v2, 7 d",
    }
    queries = {name: f"{expr} and on (manufacturer) {seen()}" for name, expr in queries.items()}
    panel = listing("Manufacturers still calling v1", description, "short", queries, columns, by="Calls, 7 d")
    panel.override_by_name("Last seen", column_unit("dateTimeFromNow"))
    panel.override_by_name("ApiKey scheme", column_unit("percentunit"))
    panel.override_by_name("Moved to v2, 7 d", column_unit("percentunit"))
    return panel.override_by_name("Errors, 7 d", column_unit("percentunit", 1))


def _trend() -> timeseries.Panel:
    description = (
        "Calls of v1 in the 24 hours before each moment, whose key v1 or v2 knows, and the straight line through the"
        " last 28 days of them."
    )
    lines = {"calls a day": CALLS_A_DAY, "28-day trend": trend_line()}
    panel = graph("Legacy calls a day", description, "short", lines)
    dashed = {"fill": "dash", "dash": [10, 10]}
    return panel.override_by_name("28-day trend", [DynamicConfigValue("custom.lineStyle", dashed)])


def _trend_by_manufacturer() -> timeseries.Panel:
    description = "Calls of v1 in the 24 hours before each moment, of the ten that call most at the end of the view."
    top = f"topk(10, sum by (manufacturer) ({series('nox_proxy:legacy_calls:increase1d')} @ end()))"
    lines = {"{{manufacturer}}": f"{BY_MANUFACTURER} and {top}"}
    return graph("Legacy calls a day by manufacturer", description, "short", lines, stacked=True)


def _moved() -> stat.Panel:
    description = (
        "Of the last 24 hours' calls, those that went to v2 directly (`/v2/…`), whose callers need no proxy. All others"
        " are calls of v1, whichever upstream answered them."
    )
    return figure("Moved to v2, 24 h", description, "percentunit", {"": moved(by="")}, without="no calls").decimals(1)


def _moved_by_manufacturer() -> timeseries.Panel:
    description = "Of each manufacturer's calls in the 24 hours before each moment, those that went to v2 directly."
    lines = {"{{manufacturer}}": moved(by="manufacturer")}
    return graph("Moved to v2 by manufacturer", description, "percentunit", lines).max(1)


def _returned() -> table.Panel:
    description = (
        "Manufacturers that had called v2 directly, and whose calls of v1 have risen by a tenth or more from one week"
        " to the next while v2's part in all of theirs fell."
    )
    legacy, direct = "nox_proxy:legacy_calls:sum", "nox_proxy:direct_calls:sum"
    v1, v2 = calls_of(legacy), calls_of(direct)
    v2_before = calls_of(direct, " offset 7d")
    v1_before = f"({calls_of(legacy, ' offset 7d')} or 0 * {v2_before})"
    back = f"({v1} > 1.1 * {v1_before}) and {v2} * {v1_before} < {v2_before} * {v1}"
    counts = {"v1": v1, "v1_before": v1_before, "v2": v2, "v2_before": v2_before}
    queries = {name: f"{expr} and ({back})" for name, expr in counts.items()}
    columns = {
        "manufacturer": "Manufacturer",
        "v1": "v1, 7 d",
        "v1_before": "v1, 7 d before",
        "v2": "v2, 7 d",
        "v2_before": "v2, 7 d before",
    }
    return listing("Back on v1", description, "short", queries, columns, by="v1, 7 d")


def _next_hit() -> table.Panel:
    """Each recorded rate stands for the 5 minutes before it: so those in (start, end] of the window make it up."""
    description = (
        "Calls in the last 7 days at the weekday and time of the next brownout, of those it will hit: who would have"
        " been answered 410 had it been a week earlier."
    )
    start, end = next_window("start", " @ end()"), next_window("end", " @ end()")
    calls = f"sum by (endpoint, manufacturer) ({series('nox_proxy:legacy_calls:rate5m')})"
    in_window = f"({calls} and on (endpoint) (({end} - time()) % {WEEK} < {end} - {start}))"
    covered = f"max by (endpoint, manufacturer) ({series('nox_proxy_next_brownout_covers')}) == 1"
    hit = f"300 * sum_over_time({in_window}[7d:5m]) > 0 and on (endpoint, manufacturer) {covered}"
    columns = {"manufacturer": "Manufacturer", "endpoint": "Endpoint", "calls": "Calls a week earlier"}
    title, by = "Who the next brownout would have hit", "Calls a week earlier"
    return listing(title, description, "short", {"calls": hit}, columns, by=by)


def _gone() -> timeseries.Panel:
    description = "Calls answered 410: in a brownout, or after the sunset."
    gone = rate("nox_proxy_requests_total", 'status="410"', 'upstream="none"')  # an upstream may know a 410 of its own
    lines = {"{{manufacturer}}": f"60 * sum by (manufacturer) ({gone})"}
    return graph("Calls answered 410", description, "cpm", lines, stacked=True)
