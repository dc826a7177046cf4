"""The Prometheus rules: promtool's own checks, their unit tests, and that texts and runbook fit them."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import promql_parser
import pytest

from tests.observability.exported import EXPORTED
from tests.processes import ROOT, Proxy, Simulator, call

GRAFANA = ROOT / "grafana"
PROMETHEUS = GRAFANA / "prometheus"
RUNBOOK = GRAFANA / "runbook.md"
UNIT_TESTS = sorted(PROMETHEUS.glob("tests/*.yml"))

SEVERITIES = {"page", "ticket", "info"}

METRICS = {its.name + ("_bucket" if its.kind == "histogram" else "") for its in EXPORTED} | {"up"}
"""What rules and runbook may ask for besides the recorded names; `up` is Prometheus's own."""


class Rule(msgspec.Struct):
    """A recording rule or an alert."""

    expr: str
    record: str = ""
    alert: str = ""
    wait: str = msgspec.field(default="", name="for")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Group(msgspec.Struct):
    """Rules that are evaluated together, in their order."""

    name: str
    rules: list[Rule]


class RuleFile(msgspec.Struct):
    """rules.yml and alerts.yml."""

    groups: list[Group]


class AlertCheck(msgspec.Struct):
    """What a unit test expects of one alert at one time."""

    alertname: str
    exp_alerts: list[dict[str, dict[str, str]]]


class Case(msgspec.Struct):
    """One case of a unit test."""

    name: str
    alert_rule_test: list[AlertCheck] = []


class UnitTest(msgspec.Struct):
    """A file for `promtool test rules`."""

    group_eval_order: list[str]
    tests: list[Case]


def read(name: str) -> list[Group]:
    return msgspec.yaml.decode((PROMETHEUS / name).read_bytes(), type=RuleFile).groups


GROUPS = read("rules.yml") + read("alerts.yml")
RULES = [rule for group in GROUPS for rule in group.rules]
ALERTS = [rule for rule in RULES if rule.alert]
RECORDED = {rule.record for rule in RULES if rule.record}


def promtool(path: str, *arguments: str | Path, text: bytes | None = None) -> str:
    """What promtool says where all is well. Fails with its complaint."""
    done = subprocess.run([path, *arguments], input=text, capture_output=True, timeout=120)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return (done.stdout + done.stderr).decode()


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression selects."""
    names: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            names.add(node.name or str(node))

    promql_parser.walk(promql_parser.parse(expression), visit)
    return names


def test_config(need: Callable[[str], str]) -> None:
    promtool(need("promtool"), "check", "config", PROMETHEUS / "prometheus.yml")


def test_rule_files(need: Callable[[str], str]) -> None:
    files = [PROMETHEUS / "rules.yml", PROMETHEUS / "alerts.yml"]
    promtool(need("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *files)


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_unit(need: Callable[[str], str], file: Path) -> None:
    promtool(need("promtool"), "test", "rules", file)


def test_every_alert_fires_in_one_case_and_is_silent_in_another() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for file in UNIT_TESTS:
        for case in msgspec.yaml.decode(file.read_bytes(), type=UnitTest).tests:
            for check in case.alert_rule_test:
                (fires if check.exp_alerts else silent).add(check.alertname)
    assert fires == silent == {rule.alert for rule in ALERTS}


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_unit_tests_evaluate_the_groups_in_their_order(file: Path) -> None:
    """promtool's own order changes from run to run."""
    unit_test = msgspec.yaml.decode(file.read_bytes(), type=UnitTest)
    assert unit_test.group_eval_order == [group.name for group in GROUPS]


def test_names_are_unique() -> None:
    names = [rule.alert or rule.record for rule in RULES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.alert)
def test_alert_says_what_where_and_where_to_read_on(rule: Rule) -> None:
    assert rule.labels["severity"] in SEVERITIES
    assert set(rule.annotations) == {"summary", "description", "runbook"}
    assert all(rule.annotations.values())
    assert rule.annotations["runbook"] == f"grafana/runbook.md#{rule.alert.lower()}"


def test_runbook_has_one_heading_an_alert() -> None:
    text = re.sub(r"```.*?```", "", RUNBOOK.read_text("utf-8"), flags=re.DOTALL)
    assert re.findall(r"(?m)^##+ (.+)$", text) == [rule.alert for rule in ALERTS]


def test_runbook_links_lead_to_headings() -> None:
    anchors = {rule.alert.lower() for rule in ALERTS}
    assert set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK.read_text("utf-8"))) <= anchors


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert or rule.record)
def test_rule_asks_for_what_is_there(rule: Rule) -> None:
    assert metrics_of(rule.expr) <= METRICS | RECORDED


def test_runbook_asks_for_what_is_there() -> None:
    queries = re.findall(r"```promql\n(.*?)```", RUNBOOK.read_text("utf-8"), flags=re.DOTALL)
    assert queries
    for query in queries:
        assert metrics_of(query) <= METRICS | RECORDED


def test_every_recorded_name_follows_the_convention() -> None:
    """level:metric:operation (Prometheus, "Recording rules")."""
    assert all(re.fullmatch(r"[a-z_]+:[a-z_]+:[a-z0-9]+", name) for name in RECORDED)


def test_exposition(need: Callable[[str], str], proxy: Proxy, v2: Simulator) -> None:
    """Of a proxy that has answered calls of several kinds, one of them through a failing v2."""
    body = b'{"manufacturer_user_id": "u", "device_ids": ["d"]}'
    for header in ({"x-api-key": "demo-key"}, {"authorization": "ApiKey demo-key"}, {"x-api-key": "other"}, {}):
        call(proxy.address, body, header)
    with v2.fault("close"):
        assert call(proxy.address, body, {"x-api-key": "demo-key"}).status == 502
    exposition = call(proxy.admin, method="GET", path="/metrics").body
    assert b'reason="connection_terminated"' in exposition
    done = subprocess.run([need("promtool"), "check", "metrics"], input=exposition, capture_output=True, timeout=120)
    said = (done.stdout + done.stderr).decode().splitlines()
    assert said == []
