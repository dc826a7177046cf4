"""The board "Canary": v1 against v2 on one endpoint, and whether the share of v2 can rise."""

from grafana_foundation_sdk.builders import dashboard, stat, timeseries
from panels import board, choice, figure, graph, quantiles, rate, row, series, share, words

ENDPOINT = 'endpoint="$endpoint"'
REQUESTS = "nox_proxy_requests_total"
SENT = 'upstream!="none"'
ACCEPTED = 'manufacturer!="unauthenticated"'
COMPARED = 'verdict=~"match|mismatch"'

VERDICTS = words({"inconclusive": "blue", "alike": "green", "v2 worse": "red"})
ENOUGH = 200
"""Calls of either side, or comparisons, as in the alert. Fewer hold too few failures to tell by."""


def canary() -> dashboard.Dashboard:
    """The board for whoever raises the share of v2, or takes it back."""
    return board(
        "nox-proxy-canary",
        "nox-proxy / Canary",
        "v1 against v2 side by side, for one endpoint: can the share of v2 rise?",
        since="now-6h",
        refresh="1m",
        choices=[choice("endpoint", 'label_values(nox_proxy_rollout_v2_ratio{job=~"$job"}, endpoint)')],
        rows={
            "Verdict on the last hour": [_verdict().span(16).height(6), _counts().span(8).height(6)],
            "Share of v2": row(_share(), _share_by_manufacturer()),
            "v1 against v2": [*row(_success(), _latency()), *row(_refused(), _fallbacks())],
            "Shadow": row(_verdicts(), _fields(), _dropped()),
            "Settings": [_reloaded().span(12).height(5), _reloaded_ago().span(12).height(5)],
        },
    )


def asked(upstream: str) -> str:
    """A matcher."""
    return f'upstream="{upstream}"'


def calls(*matchers: str) -> str:
    """Those of the last hour."""
    return series("nox_proxy:canary_calls:increase1h", ENDPOINT, *matchers)


def failures(*matchers: str) -> str:
    """Those of the last hour."""
    return series("nox_proxy:canary_failures:increase1h", ENDPOINT, *matchers)


def enough() -> str:
    """1 where both sides have enough calls, else 0."""
    return f"(min(sum by (upstream) ({calls()})) >= bool {ENOUGH})"


def fails_more() -> str:
    """1 where v2's failures exceed v1's as in the alert NoxProxyCanaryFailures, else 0."""
    ratio = f"sum({failures()}) / sum({calls()})"
    error = f"sqrt({ratio} * (1 - {ratio}) * sum(1 / sum by (upstream) ({calls()})))"
    v1, v2 = (f"sum({failures(each)}) / sum({calls(each)})" for each in (asked("v1"), asked("v2")))
    return f"(sum({failures(asked('v2'))}) >= bool 5) * ({v2} > bool 0.001) * ({v2} - {v1} > bool 3 * {error})"


def is_slower() -> str:
    """1 where v2's 99th percentile is above twice v1's, and by a tenth of a second at least, else 0."""
    v1, v2 = (p99(upstream) for upstream in ("v1", "v2"))
    return f"({v2} - {v1} > bool clamp_min({v1}, 0.1) or 0 * sum({calls()}))"


def p99(upstream: str) -> str:
    """Of the last hour, in seconds."""
    buckets = series("nox_proxy_request_duration_seconds_bucket", ENDPOINT, asked(upstream))
    return f"histogram_quantile(0.99, sum by (le) (increase({buckets}[1h])))"


def mismatches() -> str:
    """1 where the shadow found as many as for the alert NoxProxyShadowMismatches, else 0."""
    return f"(sum({series('nox_proxy:shadow_mismatches:increase1h', ENDPOINT)}) >= bool 5)"


def is_compared() -> str:
    """1 where the shadow has compared enough answers, else 0."""
    compared = f"sum(increase({series('nox_proxy_shadow_comparisons_total', ENDPOINT, COMPARED)}[1h]))"
    return f"(({compared} or 0 * sum({calls()})) >= bool {ENOUGH})"


def _verdict() -> stat.Panel:
    """Each state is 1 where there is enough to tell by, and 2 or more where v2 is worse."""
    description = (
        f"Of the last hour, whatever the view. *Inconclusive*: fewer than {ENOUGH} calls to v1 or to v2. *v2 worse*:"
        " its failures are (5 or more, over 0.1 % of its calls, and above v1's ratio by more than three standard"
        " errors of the difference), or its 99th percentile is (above twice v1's, by 0.1 s or more). Or the shadow"
        f" found 5 mismatches, however few calls there were; it is *alike* from {ENOUGH} comparisons on. A failure is"
        " a 5xx, the upstream's or ours for it, or a fallback."
    )
    states = {
        "verdict": f"{enough()} * (1 + {fails_more()} + {is_slower()}) + 2 * {mismatches()}",
        "failures": f"{enough()} * (1 + {fails_more()})",
        "99th percentile": f"{enough()} * (1 + {is_slower()})",
        "shadow": f"{is_compared()} + 2 * {mismatches()}",
    }
    shown = {name: f"clamp_max({state}, 2)" for name, state in states.items()}
    return figure("Verdict", description, "none", shown, without="no rollout").mappings(VERDICTS)


def _counts() -> stat.Panel:
    description = (
        f"Calls in the last hour, by who was asked; {ENOUGH} of each are enough for a verdict. A fallback is one of"
        " each."
    )
    lines = {upstream: f"sum({calls(asked(upstream))})" for upstream in ("v1", "v2")}
    return figure("Calls, 1 h", description, "short", lines, without="0").decimals(0)


def _share() -> timeseries.Panel:
    description = (
        "Set: by the settings and their steps on the clock, without manufacturers' own shares. Seen: of the calls sent"
        " on, those that v2 answered; fallbacks, forced choices and manufacturers' own shares part the two."
    )
    answered = [f"sum({rate(REQUESTS, ENDPOINT, each)})" for each in (asked("v2"), SENT)]
    lines = {
        "set": f"avg({series('nox_proxy_rollout_v2_ratio', ENDPOINT)})",
        "seen": f"({answered[0]} or 0 * {answered[1]}) / ({answered[1]} > 0)",
    }
    return graph("Share set and seen", description, "percentunit", lines).max(1)


def _share_by_manufacturer() -> timeseries.Panel:
    description = "Of each manufacturer's calls sent on, those that v2 answered."
    sent = (rate(REQUESTS, ENDPOINT, ACCEPTED, each) for each in (asked("v2"), SENT))
    lines = {"{{manufacturer}}": share("manufacturer", *sent)}
    return graph("Share moved by manufacturer", description, "percentunit", lines).max(1)


def _success() -> timeseries.Panel:
    description = (
        "The share of calls without a 5xx, by who was asked. A 4xx is the caller's doing. A fallback is a failure of"
        " v2's, which its caller did not notice."
    )
    parts = (rate(f"nox_proxy:canary_{each}:sum", ENDPOINT) for each in ("failures", "calls"))
    lines = {"{{upstream}}": f"1 - {share('upstream', *parts)}"}
    return graph("Success", description, "percentunit", lines, from_zero=False).max(1)


def _latency() -> timeseries.Panel:
    description = "From a call's head to its answer, by who answered. A fallback's wait for v2 counts as v1's."
    return graph(
        "Latency", description, "s", quantiles("nox_proxy_request_duration_seconds", "upstream", ENDPOINT, SENT)
    )


def _refused() -> timeseries.Panel:
    description = (
        "The share of answers from 400 to 498. It counts as no failure; but of callers that were parted at random,"
        " v2 should refuse as many as v1."
    )
    parts = (rate(REQUESTS, ENDPOINT, SENT, *only) for only in (['status=~"4..", status!="499"'], []))
    return graph("Refused", description, "percentunit", {"{{upstream}}": share("upstream", *parts)})


def _fallbacks() -> timeseries.Panel:
    description = "Calls a minute that v1 answered because v2 took nothing of them, by RFC 9209's error types."
    lines = {"{{reason}}": f"60 * sum by (reason) ({rate('nox_proxy_fallbacks_total', ENDPOINT)})"}
    return graph("Fallbacks by reason", description, "cpm", lines, stacked=True)


def _verdicts() -> timeseries.Panel:
    description = (
        "Calls a minute that v1 answered and v2 got too. `v1_error` and `v2_error`: one of the two gave no answer that"
        " can be compared. `dropped`: there was no room, or no time."
    )
    lines = {"{{verdict}}": f"60 * sum by (verdict) ({rate('nox_proxy_shadow_comparisons_total', ENDPOINT)})"}
    return graph("Shadow verdicts", description, "cpm", lines, stacked=True)


def _fields() -> timeseries.Panel:
    description = "Mismatches a minute by the field that differs. The log names the calls."
    lines = {"{{field}}": f"60 * sum by (field) ({rate('nox_proxy_shadow_mismatches_total', ENDPOINT)})"}
    return graph("Mismatching fields", description, "cpm", lines, stacked=True)


def _dropped() -> timeseries.Panel:
    description = "The share of calls meant for the shadow that did not fit. The callers notice nothing of it."
    offered = (rate("nox_proxy_shadow_comparisons_total", ENDPOINT, *only) for only in (['verdict="dropped"'], []))
    lines = {"{{endpoint}}": share("endpoint", *offered)}
    return graph("Dropped by the shadow", description, "percentunit", lines)


def _reloaded() -> stat.Panel:
    description = "Whether the settings last read were good. Broken ones change nothing."
    good = f"min by (instance) ({series('nox_proxy_config_last_reload_successful')})"
    panel = figure("Last reload", description, "none", {"{{instance}}": good}, without="no metrics")
    return panel.mappings(words({"failed": "red", "good": "green"}))


def _reloaded_ago() -> stat.Panel:
    description = "Since good settings were last read, be it at the start."
    last = f"max by (instance) ({series('nox_proxy_config_last_reload_success_timestamp_seconds')})"
    lines = {"{{instance}}": f"time() - {last}"}
    return figure("Last good reload", description, "s", lines, without="no metrics").decimals(0)
