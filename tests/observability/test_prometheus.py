"""A real Prometheus scrapes a proxy under a mixed load: every query of the boards and every rule has data there."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from datetime import UTC, datetime
from typing import Any, NamedTuple

import promql_parser
import pytest

from proxy.policy.credentials import digest
from tests.observability.board_rules import Json, queries, variables
from tests.observability.past import DAY, NAME, RATES, SLOT, past
from tests.observability.prometheus import Prometheus, backfill
from tests.observability.test_boards import BOARDS
from tests.observability.test_rules import ALERTS, RULES
from tests.processes import ROOT, Canned, Proxy, Simulator, call, eventually
from tests.test_workers import kill, workers

LISTED = ("acme", "borealis", "zenith")
WITH_DEVICES = b'{"manufacturer_user_id": "u-1", "device_ids": ["d-1", "d-2"]}'
PLAIN = b'{"manufacturer_user_id": "u-1"}'
POINTS = 500
"""A panel's width in points of data."""
SCRAPE_INTERVAL = 15
"""What provisioning/datasources/prometheus.yml tells Grafana."""


class Made(NamedTuple):
    """A call of the load: whose it counts as, what it gets, and v2's fault meanwhile."""

    manufacturer: str
    status: int
    headers: dict[str, str]
    body: bytes = PLAIN
    fault: str = ""
    path: str = "/manufacturers/nox"


def by_key(name: str) -> dict[str, str]:
    return {"x-api-key": f"{name}-key"}


def by_scheme(name: str) -> dict[str, str]:
    return {"authorization": f"ApiKey {name}-key"}


LOAD = (
    Made("acme", 201, by_key("acme"), WITH_DEVICES),
    Made("acme", 201, by_scheme("acme")),
    Made("acme", 400, by_key("acme"), b"{}"),
    Made("acme", 503, by_key("acme"), fault="status=503"),
    Made("acme", 502, by_key("acme"), fault="close"),
    Made("borealis", 201, by_scheme("borealis"), WITH_DEVICES),
    Made("borealis", 201, by_key("borealis"), fault="drift"),
    Made("zenith", 410, by_key("zenith")),
    Made("unregistered", 201, by_key("stranger"), WITH_DEVICES),
    Made("unauthenticated", 401, {}),
    Made("unauthenticated", 401, by_scheme("refused")),
    Made("", 404, by_key("acme"), path="/elsewhere"),
)


class World(NamedTuple):
    """What runs, and the calls that were answered by manufacturer and status.

    `old` is a target that can only give the text format: what the proxy gives those who ask for that.
    """

    prometheus: Prometheus
    proxy: Proxy
    old: Canned
    answered: Counter[tuple[str, str]]

    def made(self) -> dict[tuple[str, ...], int]:
        """How many calls by manufacturer."""
        calls: Counter[tuple[str, ...]] = Counter({(name,): 0 for name in LISTED})
        for (manufacturer, _), answered in self.answered.items():
            calls[manufacturer,] += answered
        return calls

    def recorded(self) -> dict[tuple[str, ...], float]:
        """The same by our rules."""
        selector = f'nox_proxy:legacy_calls:sum{{instance="{self.proxy.admin}"}}'
        return self.prometheus.numbers(selector, "manufacturer")

    def make(self, calls: Counter[tuple[str, str]]) -> None:
        """Waits until they are recorded, with all before them."""
        self.answered.update(calls)
        assert eventually(lambda: self.recorded() == self.made()), (self.recorded(), self.made())


def load(proxy: Proxy, v2: Simulator, rounds: int) -> Counter[tuple[str, str]]:
    """Calls one after the other; what was answered."""
    answered: Counter[tuple[str, str]] = Counter()
    for made in LOAD * rounds:
        with v2.fault(made.fault) if made.fault else nullcontext():
            reply = call(proxy.address, made.body, made.headers, path=made.path)
        assert reply.status == made.status, (made, reply)
        if made.manufacturer:
            answered[made.manufacturer, str(reply.status)] += 1
    return answered


def schedule(now: int) -> Json:
    """A brownout that runs, and a next one whose last week's slot is hours ago."""

    def at(seconds: int) -> str:
        return datetime.fromtimestamp(seconds, UTC).isoformat()

    start, end = (now + 7 * DAY - ago for ago in SLOT)
    return {
        "deprecated_at": at(now - 90 * DAY),
        "sunset_at": at(now + 20 * DAY),
        "brownouts": [
            {"start": at(now - 60), "end": at(now + DAY), "exempt": ["acme", "borealis", "unregistered"]},
            {"start": at(start), "end": at(end), "exempt": ["borealis"]},
        ],
    }


def proxy_with(v2: Simulator, now: int) -> Proxy:
    keys = {name: {"keys_sha256": [digest(f"{name}-key".encode())]} for name in LISTED}
    settings = {
        "MANUFACTURERS": json.dumps(keys),
        "CHANGES__CONNECT_NOX_USER__DEPRECATION": json.dumps(schedule(now)),
    }
    return Proxy(v2.url, cwd=ROOT, WORKERS="2", **settings)


def in_text(proxy: Proxy) -> bytes:
    """The proxy's exposition in Prometheus's own format, as a whole answer."""
    reply = call(proxy.admin, method="GET", path="/metrics", headers={"accept": "text/plain"})
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {reply.headers['content-type']}\r\nconnection: close"
    return f"{head}\r\ncontent-length: {len(reply.body)}\r\n\r\n".encode() + reply.body


@pytest.fixture(scope="module")
def world(need: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """After the load, with all of it recorded. A worker is killed in the middle."""
    place, now = tmp_path_factory.mktemp("prometheus"), int(time.time())
    backfill(need("promtool"), place, past(now))
    with ExitStack() as stack:
        v2 = Simulator("v2", *(part for name in (*LISTED, "stranger") for part in ("--key", f"{name}-key")))
        stack.callback(v2.stop)
        proxy = proxy_with(v2, now)
        stack.callback(proxy.stop)
        old = stack.enter_context(closing(Canned()))
        old.answer = in_text(proxy)
        targets = [proxy.admin, old.url.split("/")[2]]
        prometheus = stack.enter_context(Prometheus.running(need("prometheus"), place, targets))
        seen = World(prometheus, proxy, old, Counter())
        seen.make(Counter())
        seen.make(load(proxy, v2, 1))
        kill(proxy, workers(proxy)[0])
        seen.make(load(proxy, v2, 2))
        yield seen


def test_every_answer_is_counted_once_though_a_worker_was_killed(world: World) -> None:
    counted = f'nox_proxy_requests_total{{instance="{world.proxy.admin}", endpoint="{NAME}"}}'
    each = world.prometheus.numbers(f"sum by (manufacturer, status) ({counted}) > 0", "manufacturer", "status")
    assert each == world.answered
    assert world.prometheus.numbers(f"sum(resets({counted}[5m]))") == {(): 0.0}
    assert world.prometheus.numbers(f"sum({counted})") == {(): world.answered.total()}


def test_the_table_counts_first_calls_too(world: World) -> None:
    """Those of zenith are in a series that began with them, at 1."""
    asked = ASKED["nox-proxy-progress: Manufacturers still calling v1 week"]
    week = world.prometheus.numbers(asked.expr, "manufacturer")
    made = world.made()
    assert [week[name,] for name in LISTED] == pytest.approx([made[name,] for name in LISTED], rel=0.1)


def test_every_target_is_up(world: World) -> None:
    targets = world.prometheus.get("targets")["activeTargets"]
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")] * 2


def test_prometheus_is_given_openmetrics_and_reads_the_text_format_too(world: World) -> None:
    """OpenMetrics alone names a counter's family without `_total`."""
    asked = world.old.requests[0].decode().split("\r\n")
    (accept,) = [line.partition(": ")[2] for line in asked if line.startswith("Accept: ")]
    given = call(world.proxy.admin, method="GET", path="/metrics", headers={"accept": accept})
    assert given.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")

    def instances(family: str) -> list[str]:
        return [each["target"]["instance"] for each in world.prometheus.get("targets/metadata", metric=family)]

    assert eventually(lambda: len(instances("nox_proxy_requests_total")) == 1)
    assert instances("nox_proxy_requests") == [world.proxy.admin]
    (other,) = instances("nox_proxy_requests_total")
    assert other != world.proxy.admin
    assert world.prometheus.instant(f'nox_proxy_requests_total{{instance="{other}"}}')


class Asked(NamedTuple):
    """A query, and the view in seconds if it is one over time."""

    expr: str
    view: int = 0

    def found(self, prometheus: Prometheus) -> Any:
        if not self.view:
            return prometheus.instant(self.expr)
        now, step = time.time(), step_of(self.view)
        return prometheus.range(self.expr, now - self.view // step * step, now, step)


def step_of(view: int) -> int:
    return max(SCRAPE_INTERVAL, view // POINTS)


def as_grafana_asks(board: Json, target: Json) -> Asked:
    """With its variables replaced, all of the jobs and instances chosen.

    $__rate_interval is from Grafana's manual: docs/sources/datasources/prometheus/template-variables.
    """
    view = int(promql_parser.parse_duration(board["time"]["from"].removeprefix("now-")).total_seconds())
    interval = max(step_of(view) + SCRAPE_INTERVAL, 4 * SCRAPE_INTERVAL)
    expr = target["expr"].replace("$__rate_interval", f"{interval}s")
    for name, variable in variables(board).items():
        expr = expr.replace(f"${name}", variable.get("allValue", ""))
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
def test_the_variables_offer_the_job_and_the_instance(world: World, uid: str) -> None:
    """Grafana asks for a label's values by the series to look at."""
    offered = {}
    for name, variable in variables(BOARDS[uid]).items():
        if variable["type"] == "query":
            selector = variable["query"].removeprefix("label_values(").removesuffix(f", {name})").replace("$job", ".+")
            offered[name] = world.prometheus.get(f"label/{name}/values", **{"match[]": selector})
    assert "nox-proxy" in offered["job"]
    assert world.proxy.admin in offered["instance"]


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
