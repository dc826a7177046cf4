"""What the boards' queries make of given series: the trend, the next brownout, the verdict, who returned."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.observability.board_rules import Json, panels, queries
from tests.observability.test_boards import BOARDS
from tests.observability.test_rules import ALERTS

CANARY = "nox-proxy-canary"


def expression(title: str, ref: str = "A", uid: str = "nox-proxy-progress") -> str:
    """A panel's query, for all jobs and instances."""
    found = [q.target["expr"] for q in queries(BOARDS[uid]) if (q.title, q.target["refId"]) == (title, ref)]
    return str(found[0]).replace("$job", ".+").replace("$instance", ".+").replace("$endpoint", "connect_nox_user")


def series(metric: str, manufacturer: str, values: str) -> Json:
    return labelled(metric, values, manufacturer=manufacturer)


def labelled(metric: str, values: str, **labels: str) -> Json:
    named = {"job": "nox-proxy", "instance": "a", "endpoint": "connect_nox_user", **labels}
    text = ", ".join(f'{name}="{value}"' for name, value in named.items())
    return {"series": f"{metric}{{{text}}}", "values": values}


def sample(value: float, labels: str = "{}") -> Json:
    return {"labels": labels, "value": value}


DAILY = "nox_proxy:legacy_calls:increase1d"
HOURS = 672  # of the 28 days

TRENDS = {
    "it falls by one an hour, from 1000": ("1000-1x672", [sample(1000 * 3600)]),
    "it has met zero, and ends now": ("1000-5x200 0x471", [sample(HOURS * 3600)]),
    "it rises": ("1000+1x672", []),
    "it stays": ("1000x672", []),
}


@pytest.mark.parametrize(("values", "expected"), TRENDS.values(), ids=TRENDS)
def test_the_last_call_is_where_the_trend_meets_zero(
    values: str, expected: list[Json], tmp_path: Path, need: Callable[[str], str]
) -> None:
    expr = f"round({expression('Last v1 call by the 28-day trend')} / 1000)"
    refused = series(DAILY, "unauthenticated", "0+9x672")
    evaluated(need("promtool"), tmp_path, "1h", [series(DAILY, "acme", values), refused], {expr: expected}, f"{HOURS}h")


def test_the_next_brownout_would_have_hit_who_called_in_its_hours_a_week_earlier(
    tmp_path: Path, need: Callable[[str], str]
) -> None:
    """Now is day 8, the window is on day 14 from 12 to 15 o'clock: so these hours of day 7 count, 36 samples of them.

    promtool holds 10,000 samples at most: so the query is asked over its last day.
    """
    rate = "nox_proxy:legacy_calls:rate5m"
    start = 14 * 86_400 + 12 * 3_600
    given = [
        series(rate, "inside", "0x2160 0.1x35 0x107"),
        series(rate, "outside", "0.1x2160 0x35 0.1x107"),
        series(rate, "always", "1x2304"),
        series(rate, "exempt", "1x2304"),
        *(series("nox_proxy_next_brownout_covers", name, "_x2304 1") for name in ("inside", "outside", "always")),
        series("nox_proxy_next_brownout_covers", "exempt", "_x2304 0"),
        series("nox_proxy_next_brownout_start_timestamp_seconds", "", f"_x2304 {start}"),
        series("nox_proxy_next_brownout_end_timestamp_seconds", "", f"_x2304 {start + 3 * 3_600}"),
    ]
    hit = [
        sample(calls, f'{{endpoint="connect_nox_user", manufacturer="{name}"}}')
        for name, calls in (("inside", 1_080), ("always", 10_800))
    ]
    expr = f"round({expression('Who the next brownout would have hit', 'calls').replace('[7d:', '[1d:')})"
    evaluated(need("promtool"), tmp_path, "5m", given, {expr: hit}, "8d")


BUCKETS = "nox_proxy_request_duration_seconds_bucket"
WORSE, ALIKE, UNTOLD = "v2 worse", "alike", "inconclusive"


class Hour(NamedTuple):
    """What came of an hour's calls, of v1 and of v2, and what the board makes of them."""

    calls: tuple[int, int] = (1_000, 1_000)
    failures: tuple[int, int] = (0, 0)
    slow: tuple[int, int] = (0, 0)
    """Those that took 1 to 2.5 seconds; the others took less than 0.1."""
    matches: int = 0
    mismatches: int = 0
    says: tuple[str, str, str, str] = (ALIKE, ALIKE, ALIKE, UNTOLD)
    """The verdict, and those on failures, 99th percentile and shadow that it rests on."""

    def given(self) -> list[Json]:
        """As series of an hour, at its begin and its end."""
        found = [
            labelled("nox_proxy:shadow_mismatches:increase1h", f"0 {self.mismatches}"),
            labelled("nox_proxy_shadow_comparisons_total", f"0 {self.matches}", verdict="match"),
            labelled("nox_proxy_shadow_comparisons_total", f"0 {self.mismatches}", verdict="mismatch"),
        ]
        for upstream, calls, failures, slow in zip(("v1", "v2"), self.calls, self.failures, self.slow, strict=True):
            counts = {"0.1": calls - slow, "1": calls - slow, "2.5": calls, "+Inf": calls} if calls else {}
            found += [
                labelled("nox_proxy:canary_calls:increase1h", f"0 {calls}", upstream=upstream),
                labelled("nox_proxy:canary_failures:increase1h", f"0 {failures}", upstream=upstream),
                *(labelled(BUCKETS, f"0 {count}", upstream=upstream, le=le) for le, count in counts.items()),
            ]
        return found


HOURS_OF_A_CANARY = {
    "nothing was called": Hour((0, 0), says=(UNTOLD, UNTOLD, UNTOLD, UNTOLD)),
    "v2 was not called": Hour((5_000, 0), (10, 0), says=(UNTOLD, UNTOLD, UNTOLD, UNTOLD)),
    "too few to v2, all failed": Hour((5_000, 199), (0, 199), says=(UNTOLD, UNTOLD, UNTOLD, UNTOLD)),
    "too few to v1": Hour((199, 5_000), (0, 500), (0, 500), says=(UNTOLD, UNTOLD, UNTOLD, UNTOLD)),
    "enough, and nothing failed": Hour((200, 200)),
    "both fail": Hour(failures=(50, 50)),
    "v1 fails": Hour(failures=(50, 0)),
    "v2 fails": Hour(failures=(0, 50), says=(WORSE, WORSE, ALIKE, UNTOLD)),
    "v2 fails, by chance it may be": Hour(failures=(10, 15)),
    "4 failures": Hour((100_000, 200), (0, 4)),
    "5 failures": Hour((100_000, 200), (0, 5), says=(WORSE, WORSE, ALIKE, UNTOLD)),
    "the objective allows it": Hour((1_000_000, 1_000_000), (0, 999)),
    "both are slow": Hour(slow=(50, 50)),
    "v2 is slow": Hour(slow=(0, 50), says=(WORSE, ALIKE, WORSE, UNTOLD)),
    "v1 is slow": Hour(slow=(50, 0)),
    "the shadow is content": Hour(matches=200, says=(ALIKE, ALIKE, ALIKE, ALIKE)),
    "4 mismatches": Hour(matches=195, mismatches=4),
    "5 mismatches": Hour(matches=999, mismatches=5, says=(WORSE, ALIKE, ALIKE, WORSE)),
    "5 mismatches before v2 had a share": Hour((1_000, 0), mismatches=5, says=(WORSE, UNTOLD, UNTOLD, WORSE)),
}


@pytest.mark.parametrize("hour", HOURS_OF_A_CANARY.values(), ids=HOURS_OF_A_CANARY)
def test_the_verdict_on_the_canary(hour: Hour, tmp_path: Path, need: Callable[[str], str]) -> None:
    (panel,) = [panel for panel in panels(BOARDS[CANARY]) if panel["title"] == "Verdict"]
    (words,) = panel["fieldConfig"]["defaults"]["mappings"]
    numbers = {its["text"]: int(number) for number, its in words["options"].items()}
    assert numbers.keys() == {UNTOLD, ALIKE, WORSE}
    expected = {
        expression("Verdict", ref, CANARY): [sample(numbers[word])] for ref, word in zip("ABCD", hour.says, strict=True)
    }
    evaluated(need("promtool"), tmp_path, "1h", hour.given(), expected, "1h")


def bounds(expr: str) -> set[tuple[str, str]]:
    """What it compares with numbers."""
    return set(re.findall(r"(>=?) (?:bool )?([\d.]+)", expr))


def test_the_verdict_and_the_alerts_have_the_same_bounds() -> None:
    alerts = {rule.alert: bounds(rule.expr) for rule in ALERTS}
    still = {(">", "0")}  # the alert ends when the failures do
    assert bounds(expression("Verdict", "B", CANARY)) == alerts["NoxProxyCanaryFailures"] - still
    assert bounds(expression("Verdict", "D", CANARY)) >= alerts["NoxProxyShadowMismatches"] != set()


def test_who_returned_to_v1(tmp_path: Path, need: Callable[[str], str]) -> None:
    """Two weeks, by the day: of the calls of v1, and of v2 directly."""
    given = []
    for name, v1, v2 in (
        ("moves on", "0+100x7 750+50x6", "0+100x7 900+200x6"),
        ("goes back", "0+100x7 900+200x6", "0+100x7 750+50x6"),
        ("is back", "0x7 10+10x6", "0+100x7 800+100x6"),
        ("was never gone", "0+100x7 900+200x6", "0x14"),
        ("grows", "0+100x7 900+200x6", "0+100x7 1000+300x6"),
        ("calls less of both", "0+100x7 790+90x6", "0+100x7 750+50x6"),
        ("unauthenticated", "0x7 10+10x6", "0+100x7 800+100x6"),
    ):
        given += [series("nox_proxy:legacy_calls:sum", name, v1), series("nox_proxy:direct_calls:sum", name, v2)]
    found = {
        ref: [sample(calls, f'{{manufacturer="{name}"}}') for name, calls in counts.items()]
        for ref, counts in {
            "v1": {"goes back": 1_400, "is back": 70},
            "v1_before": {"goes back": 700, "is back": 0},
            "v2": {"goes back": 350, "is back": 700},
            "v2_before": {"goes back": 700, "is back": 700},
        }.items()
    }
    expected = {f"round({expression('Back on v1', ref)})": samples for ref, samples in found.items()}
    evaluated(need("promtool"), tmp_path, "1d", given, expected, "14d")


def evaluated(
    promtool: str, place: Path, interval: str, given: list[Json], expected: dict[str, list[Json]], at: str
) -> None:
    """What Prometheus' own unit tests make of the expressions."""
    asked = [{"expr": expr, "eval_time": at, "exp_samples": samples} for expr, samples in expected.items()]
    case = {"interval": interval, "input_series": given, "promql_expr_test": asked}
    (place / "test.yml").write_text(json.dumps({"rule_files": [], "tests": [case]}))
    told = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=place, capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, told.stdout + told.stderr
