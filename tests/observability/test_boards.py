"""The boards are built from the code and keep their rules; Grafana's own files provision them."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.observability.board_rules import (
    FIXED_WINDOWS,
    LINTERS,
    OURS,
    RATES,
    UIDS,
    Json,
    Rule,
    columns,
    datasource,
    function,
    grid,
    identity,
    metrics_and_labels,
    panel_targets,
    panel_title_and_description,
    panel_unit,
    panels,
    queries,
    target_counter_aggregated,
    target_counter_rate,
    target_histogram,
    target_job_and_instance,
    target_promql,
    target_rate_interval,
    template_datasource,
    template_job_and_instance,
    template_query,
    template_reload,
    uneditable,
    variables,
)
from tests.observability.exported import EXPORTED
from tests.observability.test_rules import RULES, metrics_of
from tests.processes import ROOT

GRAFANA = ROOT / "grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").iterdir())}


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
@pytest.mark.parametrize("rule", LINTERS + OURS)
def test_every_board_keeps_the_rule(rule: Rule, board: Json) -> None:
    assert not list(rule(board))


def spoil_panel(**fields: object) -> Callable[[Json], object]:
    return lambda board: panels(board)[0].update(fields)


def spoil_variable(name: str, /, **fields: object) -> Callable[[Json], object]:
    return lambda board: variables(board)[name].update(fields)


def spoil_table(part: str, **fields: object) -> Callable[[Json], object]:
    return lambda board: next(p for p in panels(board) if p["type"] == "table")["transformations"][1][part].update(
        fields
    )


def spoil_query(expr: str, **fields: object) -> Callable[[Json], object]:
    chosen = expr.replace("{S", '{job=~"$job", instance=~"$instance"')
    return lambda board: panels(board)[0]["targets"][0].update(expr=chosen, **fields)


SPOILT: list[tuple[Rule, Callable[[Json], object]]] = [
    (template_datasource, spoil_variable("datasource", label="datasource")),
    (template_datasource, spoil_variable("datasource", name="source")),
    (template_datasource, lambda board: board["templating"].update(list=[])),
    (template_job_and_instance, spoil_variable("job", multi=False)),
    (template_job_and_instance, spoil_variable("instance", allValue=".*")),
    (template_job_and_instance, spoil_variable("instance", name="node")),
    (template_job_and_instance, spoil_variable("job", type="custom")),
    (template_query, spoil_variable("job", query="label_values(nox_proxy_build_info{, job)")),
    (template_query, spoil_variable("job", query="labels(nox_proxy_build_info, job)")),
    (template_query, spoil_variable("job", query="label_values(nox_proxy_build_info, instance)")),
    (template_reload, spoil_variable("instance", refresh=1)),
    (datasource, spoil_variable("job", datasource={"type": "prometheus", "uid": "abc"})),
    (datasource, spoil_panel(datasource={"type": "prometheus", "uid": "abc"})),
    (datasource, spoil_query("1", datasource={"type": "prometheus", "uid": "abc"})),
    (datasource, lambda board: board["annotations"]["list"][0].pop("datasource")),
    (panel_title_and_description, spoil_panel(title="")),
    (panel_title_and_description, lambda board: panels(board)[0].pop("description")),
    (panel_unit, lambda board: panels(board)[0]["fieldConfig"]["defaults"].pop("unit")),
    (panel_unit, lambda board: panels(board)[0]["fieldConfig"]["defaults"].update(unit="calls")),
    (
        panel_unit,
        lambda board: panels(board)[0]["fieldConfig"]["overrides"].append(
            {"properties": [{"id": "unit", "value": "x"}]}
        ),
    ),
    (panel_targets, spoil_panel(targets=[])),
    (panel_targets, lambda board: panels(board)[0]["targets"].append(panels(board)[0]["targets"][0])),
    (target_promql, spoil_query("sum(")),
    (target_promql, lambda board: board["annotations"]["list"][0]["target"].update(expr="max by (")),
    (target_rate_interval, spoil_query("sum(rate(nox_proxy_requests_total{S}[5m]))")),
    (target_rate_interval, spoil_query("sum(increase(nox_proxy_requests_total{S}[7d]))")),
    (target_job_and_instance, spoil_query("nox_proxy_build_info")),
    (target_job_and_instance, spoil_query('nox_proxy_build_info{job=~"$job"}')),
    (target_counter_rate, spoil_query("sum(nox_proxy_requests_total{S})")),
    (target_counter_rate, spoil_query("sum(max_over_time(nox_proxy_requests_total{S}[$__rate_interval]))")),
    (target_counter_aggregated, spoil_query("rate(nox_proxy_requests_total{S}[$__rate_interval])")),
    (target_histogram, spoil_query("sum(rate(nox_proxy_request_duration_seconds_bucket{S}[$__rate_interval]))")),
    (uneditable, lambda board: board.update(editable=True)),
    (metrics_and_labels, spoil_query("sum(nox_proxy_breakers_open{S})")),
    (metrics_and_labels, spoil_query("sum by (endpiont) (nox_proxy_brownout_active{S})")),
    (metrics_and_labels, spoil_query('sum(nox_proxy_brownout_active{S, upstream="v2"})')),
    (metrics_and_labels, spoil_query("sum(nox_proxy_brownout_active{S})", legendFormat="{{endpoint}}")),
    (grid, lambda board: panels(board)[0]["gridPos"].update(x=20, w=5)),
    (grid, lambda board: panels(board)[1]["gridPos"].update(panels(board)[0]["gridPos"])),
    (identity, lambda board: board.update(uid="generated")),
    (identity, lambda board: board.update(id=7)),
    (identity, spoil_panel(id=3)),
    (identity, lambda board: board.update(time={})),
    (columns, spoil_table("options", renameByName={"Value #none": "Calls"})),
    (columns, lambda board: panels(board)[-2]["options"].update(sortBy=[{"displayName": "none"}])),
    (columns, lambda board: panels(board)[-2]["targets"][0].update(format="time_series")),
]


@pytest.mark.parametrize(("rule", "spoil"), SPOILT)
def test_the_rule_catches(rule: Rule, spoil: Callable[[Json], object]) -> None:
    board = copy.deepcopy(BOARDS["nox-proxy-progress"])
    spoil(board)
    assert list(rule(board))


def test_every_rule_has_a_case_that_it_catches() -> None:
    assert {rule for rule, _ in SPOILT} == {*LINTERS, *OURS}


def test_the_exceptions_are_no_more_than_needed() -> None:
    """A panel that needs its fixed window no longer leaves the list."""
    fixed = {
        query.title
        for board in BOARDS.values()
        for query in queries(board)
        for _, path in query.selectors()
        if function(path) in RATES and "$__rate_interval" not in query.target["expr"]
    }
    assert fixed == FIXED_WINDOWS.keys()


OFF_THE_BOARDS = {"nox_proxy_deprecation_timestamp_seconds": "all plan by the sunset; the admin page says both"}
"""Series that no board asks for, and why."""


def test_every_series_is_on_a_board_or_has_its_reason() -> None:
    selected = [selector for board in BOARDS.values() for query in queries(board) for selector, _ in query.selectors()]
    names = {str(selector.name).removesuffix("_bucket") for selector in selected}
    recorded = {name for rule in RULES if rule.record in names for name in metrics_of(rule.expr)}
    assert {its.name for its in EXPORTED} - names - recorded == OFF_THE_BOARDS.keys()


def test_the_committed_boards_are_what_the_script_builds(tmp_path: Path) -> None:
    shutil.copytree(GRAFANA, tmp_path / "grafana", ignore=shutil.ignore_patterns("*.json"))
    subprocess.run([sys.executable, tmp_path / "grafana" / "boards.py"], check=True, timeout=60)
    built = {path.name: path.read_bytes() for path in (tmp_path / "grafana" / "dashboards").iterdir()}
    assert built == {path.name: path.read_bytes() for path in (GRAFANA / "dashboards").iterdir()}
    assert built.keys() == {f"{uid}.json" for uid in UIDS}


def provisioning(file: str) -> Json:
    loaded: Json = yaml.safe_load((GRAFANA / "provisioning" / file).read_text())
    return loaded


def test_the_data_source_is_provisioned_from_the_environment() -> None:
    """The form is Grafana's: docs/sources/datasources/prometheus/configure."""
    assert provisioning("datasources/prometheus.yml") == {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "nox-proxy",
                "uid": "nox-proxy-prometheus",
                "type": "prometheus",
                "access": "proxy",
                "url": "$PROMETHEUS_URL",
                "editable": False,
                "jsonData": {"httpMethod": "POST", "prometheusType": "Prometheus", "timeInterval": "15s"},
            }
        ],
    }


def test_the_boards_are_provisioned_from_where_the_readme_mounts_them() -> None:
    """The form is Grafana's: docs/sources/administration/provisioning."""
    loaded = provisioning("dashboards/nox-proxy.yml")
    (provider,) = loaded["providers"]
    assert loaded["apiVersion"] == 1
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    assert f"`{provider['options']['path']}/`" in (GRAFANA / "README.md").read_text()
