"""A real Prometheus scrapes a proxy under a mixed load: every query of the boards and every rule has data there."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import promql_parser
import pytest

from proxy.setting_sections import V2Settings
from tests.observability.board_rules import Json, queries, variables
from tests.observability.canary import SHARE, Canary
from tests.observability.exported import EXPORTED
from tests.observability.past import NAME, RATES, SLOT, past
from tests.observability.prometheus import Prometheus, backfill
from tests.observability.test_boards import BOARDS
from tests.observability.test_rules import ALERTS, RULES
from tests.observability.world import LISTED, World, in_text, load, proxy_with
from tests.processes import Canned, Simulator, call, eventually
from tests.test_workers import kill, workers

POINTS = 500
"""A panel's width in points of data."""
SCRAPE_INTERVAL = 15
"""What provisioning/datasources/prometheus.yml tells Grafana."""


@pytest.fixture(scope="module")
def world(need: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """After the loads, with all of them recorded. A worker is killed in the middle of one."""
    place, now = tmp_path_factory.mktemp("prometheus"), int(time.time())
    backfill(need("promtool"), place, past(now))
    with ExitStack() as stack:
        keys = [part for name in (*LISTED, "stranger") for part in ("--key", f"{name}-key")]
        v1, v2 = Simulator("v1", *keys), Simulator("v2", *keys)
        stack.callback(v1.stop)
        stack.callback(v2.stop)
        proxy = proxy_with(v2, now)
        stack.callback(proxy.stop)
        canary = stack.enter_context(Canary.running(place, v1, v2))
        old = stack.enter_context(closing(Canned()))
        old.answer = in_text(proxy)
        targets = [proxy.admin, canary.proxy.admin, old.url.split("/")[2]]
        prometheus = stack.enter_context(Prometheus.running(need("prometheus"), place, targets))
        seen = World(prometheus, proxy, old, canary, Counter())
        seen.make(Counter())
        seen.make(load(proxy, v2, 1))
        kill(proxy, workers(proxy)[0])
        seen.make(load(proxy, v2, 2))
        for step in (canary.round, canary.round, canary.lose_v2):
            step()
            assert eventually(seen.has_seen_the_canary), canary.calls
        canary.misread()
        yield seen


def test_every_answer_is_counted_once_though_a_worker_was_killed(world: World) -> None:
    counted = f'nox_proxy_requests_total{{instance="{world.proxy.admin}", endpoint="{NAME}"}}'
    each = world.prometheus.numbers(f"sum by (manufacturer, status) ({counted}) > 0", "manufacturer", "status")
    assert each == world.answered
    assert world.prometheus.numbers(f"sum(resets({counted}[5m]))") == {(): 0.0}
    assert world.prometheus.numbers(f"sum({counted})") == {(): world.answered.total()}


def test_the_table_counts_first_calls_too(world: World) -> None:
    """Those of zenith are in a series that began with them, at 1. increase() adds a part for the time to now."""
    asked = ASKED["nox-proxy-progress: Manufacturers still calling v1 week"]
    week = world.prometheus.numbers(asked.only(world.proxy.admin), "manufacturer")
    made = world.made()
    assert [week[name,] for name in LISTED] == pytest.approx([made[name,] for name in LISTED], rel=0.2)


def test_every_target_is_up(world: World) -> None:
    targets = world.prometheus.get("targets")["activeTargets"]
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")] * 3


def test_every_series_is_there(world: World) -> None:
    """Those of the breaker, the retries and the limits too, though nothing came of them."""
    ours = f'{{instance=~"{world.proxy.admin}|{world.canary.proxy.admin}"}}'
    names = set(world.prometheus.get("label/__name__/values", **{"match[]": ours}))
    assert {its.name + ("_bucket" if its.kind == "histogram" else "") for its in EXPORTED} <= names


def test_what_two_workers_may_have_open_adds_up_though_one_was_killed(world: World) -> None:
    def limit(of: str, *labels: str) -> dict[tuple[str, ...], float]:
        return world.prometheus.numbers(f'nox_proxy_{of}_limit{{instance="{world.proxy.admin}"}}', *labels)

    assert eventually(lambda: limit("upstream_connections", "upstream") == {("v2",): 2 * V2Settings().max_connections})
    assert eventually(lambda: limit("connections") == {(): 20_000})


def test_prometheus_is_given_openmetrics_and_reads_the_text_format_too(world: World) -> None:
    """OpenMetrics alone names a counter's family without `_total`."""
    asked = world.old.requests[0].decode().split("\r\n")
    (accept,) = [line.partition(": ")[2] for line in asked if line.startswith("Accept: ")]
    given = call(world.proxy.admin, method="GET", path="/metrics", headers={"accept": accept})
    assert given.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")

    def instances(family: str) -> list[str]:
        return [each["target"]["instance"] for each in world.prometheus.get("targets/metadata", metric=family)]

    assert eventually(lambda: len(instances("nox_proxy_requests_total")) == 1)
    ours = {world.proxy.admin, world.canary.proxy.admin}
    assert set(instances("nox_proxy_requests")) == ours
    (other,) = instances("nox_proxy_requests_total")
    assert other not in ours
    assert world.prometheus.instant(f'nox_proxy_requests_total{{instance="{other}"}}')


class Asked(NamedTuple):
    """A query, and the view in seconds if it is one over time."""

    expr: str
    view: int = 0

    def only(self, instance: str) -> str:
        """The query with one instance chosen."""
        return self.expr.replace('instance=~".+"', f'instance="{instance}"')

    def found(self, prometheus: Prometheus) -> Any:
        if not self.view:
            return prometheus.instant(self.expr)
        now, step = time.time(), step_of(self.view)
        return prometheus.range(self.expr, now - self.view // step * step, now, step)


def step_of(view: int) -> int:
    return max(SCRAPE_INTERVAL, view // POINTS)


def as_grafana_asks(board: Json, target: Json) -> Asked:
    """With its variables replaced, all of the jobs and instances chosen, and the one endpoint.

    $__rate_interval is from Grafana's manual: docs/sources/datasources/prometheus/template-variables.
    """
    view = int(promql_parser.parse_duration(board["time"]["from"].removeprefix("now-")).total_seconds())
    interval = max(step_of(view) + SCRAPE_INTERVAL, 4 * SCRAPE_INTERVAL)
    expr = target["expr"].replace("$__rate_interval", f"{interval}s")
    for name, variable in variables(board).items():
        expr = expr.replace(f"${name}", variable.get("allValue", NAME))
    assert "$" not in expr
    return Asked(expr, 0 if target["instant"] else view)


ASKED = {
    f"{uid}: {query.title} {query.target['refId']}": as_grafana_asks(board, query.target)
    for uid, board in BOARDS.items()
    for query in queries(board)
} | {rule.alert or rule.record: Asked(rule.expr) for rule in RULES}


@pytest.mark.parametrize("name", ASKED)
def test_the_query_has_data(world: World, name: str) -> None:
    """All of them: the past and the load are made so that none needs an exception."""
    assert eventually(lambda: bool(ASKED[name].found(world.prometheus))), ASKED[name]


@pytest.mark.parametrize("uid", BOARDS)
def test_the_variables_offer_what_there_is(world: World, uid: str) -> None:
    """Grafana asks for a label's values by the series to look at."""
    offered = {}
    for name, variable in variables(BOARDS[uid]).items():
        if variable["type"] == "query":
            selector = variable["query"].removeprefix("label_values(").removesuffix(f", {name})").replace("$job", ".+")
            offered[name] = world.prometheus.get(f"label/{name}/values", **{"match[]": selector})
    assert "nox-proxy" in offered["job"]
    assert world.proxy.admin in offered["instance"]
    assert offered.get("endpoint", [NAME]) == [NAME]


def test_every_rule_is_healthy(world: World) -> None:
    assert eventually(lambda: all(rule["health"] != "unknown" for rule in world.prometheus.rules()))
    said = {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in world.prometheus.rules()}
    assert said == {rule.alert or rule.record: ("ok", "") for rule in RULES}
    assert world.prometheus.complaints() == []


def test_every_alert_is_on_its_way(world: World) -> None:
    """Those that wait are pending, the others fire."""
    waiting = {rule.alert for rule in ALERTS if rule.wait}

    def states() -> set[tuple[str, str]]:
        return {(each["labels"]["alertname"], each["state"]) for each in world.prometheus.get("alerts")["alerts"]}

    expected = {(rule.alert, "pending" if rule.alert in waiting else "firing") for rule in ALERTS}
    assert eventually(lambda: states() == expected), states() ^ expected


def test_the_next_brownout_would_have_hit_who_called_a_week_earlier(world: World) -> None:
    """Not whom it exempts, and not what came before and after the slot."""
    asked = ASKED["nox-proxy-progress: Who the next brownout would have hit calls"]
    hit = world.prometheus.numbers(asked.expr, "endpoint", "manufacturer")
    assert hit == pytest.approx({(NAME, "acme"): RATES["acme"] * (SLOT[0] - SLOT[1])})


def test_the_canary_is_what_was_made_of_it(world: World) -> None:
    """By who was asked; and v2 is worse, for it failed more and answered otherwise."""
    canary, instance = world.canary, world.canary.proxy.admin

    def found(panel: str, *labels: str) -> dict[tuple[str, ...], float]:
        return world.prometheus.numbers(ASKED[f"nox-proxy-canary: {panel}"].only(instance), *labels)

    def kinds(panel: str, label: str) -> set[str]:
        return {kind for (kind,) in found(panel, label)}

    assert eventually(lambda: found("Last reload A", "instance") == {(instance,): 0.0})
    assert eventually(lambda: kinds("Fallbacks by reason A", "reason") == {"connection_refused"})
    assert kinds("Shadow verdicts A", "verdict") == {"match", "mismatch", "v1_error", "v2_error", "dropped"}
    assert kinds("Mismatching fields A", "field") == {"data.nox_user_id"}
    failed = world.prometheus.numbers(f'nox_proxy:canary_failures:sum{{instance="{instance}"}}', "upstream")
    assert failed == {(upstream,): failures for upstream, failures in canary.failures.items()}
    assert found("Share set and seen A") == {(): SHARE / 100}
    moved = found("Share moved by manufacturer A", "manufacturer")
    assert moved == pytest.approx({("acme",): 0.0, ("borealis",): 1.0}, abs=0.05)  # increase() adds a part
    assert [found(f"Verdict {ref}") for ref in "ABD"] == [{(): 2.0}] * 3
